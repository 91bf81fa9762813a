-- What the services may do in the database, if they have a role of their own, `rejoin_service`: use what the
-- migrations made, and make nothing. Run by `rejoin migrate` each time, as the owner, behind the migrations,
-- so that it holds for their tables too. Who creates the role and gives it a password: deploy/postgres.sh.

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
  -- The law of the lifecycle, and what is known of the schema: read only.
  revoke insert, update, delete on schema_migrations from rejoin_service;
  if to_regclass('run_transitions') is not null then
    revoke insert, update, delete on run_transitions from rejoin_service;
  end if;
end $$;
