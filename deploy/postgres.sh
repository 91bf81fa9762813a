#!/bin/sh
# Makes the database and its two roles, once, when the server's directory is new: the owner, who migrates,
# and the services' own, which gets what it needs from `rejoin migrate` (migrations/grants).
set -eu
psql --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres \
  --set owner="$(cat /run/secrets/owner_password)" \
  --set service="$(cat /run/secrets/service_password)" <<'SQL'
create role rejoin_owner login password :'owner';
create role rejoin_service login password :'service';
create database rejoin owner rejoin_owner;
SQL
