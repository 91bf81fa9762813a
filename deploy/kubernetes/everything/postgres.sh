#!/bin/sh
# Creates the database and three roles, once, when the server's data directory is new: `rejoin_owner` for
# `rejoin migrate`, `rejoin_gateway` and `rejoin_runner` for the services. `rejoin migrate` grants the services their
# permissions (migrations/grants).
set -eu
psql --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres \
  --set owner="$(cat /run/secrets/owner_password)" \
  --set gateway="$(cat /run/secrets/gateway_password)" \
  --set runner="$(cat /run/secrets/runner_password)" <<'SQL'
create role rejoin_owner login password :'owner';
create role rejoin_gateway login password :'gateway';
create role rejoin_runner login password :'runner';
create database rejoin owner rejoin_owner;
SQL
