-- Permissions of the services' own database role `rejoin_service`, if it exists: use the tables, create nothing.
-- `rejoin migrate` runs this as the owner after each migration, so that new tables are included. The role and its
-- password are created by deploy/postgres.sh.

do $$
begin
  if not exists (select from pg_roles where rolname = 'rejoin_service') then
    return;
  end if;
  revoke create on schema public from public, rejoin_service;
  execute format('revoke create, temporary on database %I from public, rejoin_service', current_database());
  execute format('grant connect on database %I to rejoin_service', current_database());
  grant usage on schema public to rejoin_service;
  grant select, insert, update, delete on all tables in schema public to rejoin_service;
  -- The lifecycle's transitions and the schema's version are read only.
  revoke insert, update, delete on schema_migrations from rejoin_service;
  if to_regclass('run_transitions') is not null then
    revoke insert, update, delete on run_transitions from rejoin_service;
  end if;
end $$;
