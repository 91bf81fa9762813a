#!/bin/sh
# Creates the database and two roles, once, when the server's data directory is new: `rejoin_owner` for
# `rejoin migrate`, and `rejoin_service` for gateways and runners. `rejoin migrate` grants the second one its
# permissions (migrations/grants).
set -eu
psql --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres \
  --set owner="$(cat /run/secrets/owner_password)" \
  --set service="$(cat /run/secrets/service_password)" <<'SQL'
create role rejoin_owner login password :'owner';
create role rejoin_service login password :'service';
create database rejoin owner rejoin_owner;
SQL
