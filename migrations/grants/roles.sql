-- Permissions of the services' own database roles, of those that exist: use the tables, create nothing.
-- `rejoin_gateway` and `rejoin_runner` are the roles of the two services; `rejoin_service` is one role for both, as in
-- installations of earlier versions. `rejoin migrate` runs this as the owner after each migration, so that new tables are
-- included. The roles and their passwords are created by deploy/postgres.sh.

do $$
declare
  service text;
  protected text;
begin
  foreach service in array array['rejoin_gateway', 'rejoin_runner', 'rejoin_service'] loop
    continue when not exists (select from pg_roles where rolname = service);
    execute format('revoke create on schema public from public, %I', service);
    execute format('revoke create, temporary on database %I from public, %I', current_database(), service);
    execute format('grant connect on database %I to %I', current_database(), service);
    execute format('grant usage on schema public to %I', service);
    execute format('grant select, insert, update, delete on all tables in schema public to %I', service);
    -- The schema's version and the audit log are read only: the log is written by its triggers.
    foreach protected in array array['schema_migrations', 'audit_log', 'write_checks'] loop
      if to_regclass(protected) is not null then
        execute format('revoke insert, update, delete on %I from %I', protected, service);
      end if;
    end loop;
  end loop;

  if exists (select from pg_roles where rolname = 'rejoin_runner') then
    -- Keys, limits and what users report are the gateways'.
    foreach protected in array array['api_keys', 'audit_log', 'early_stops', 'tenants'] loop
      if to_regclass(protected) is not null then
        execute format('revoke all on %I from rejoin_runner', protected);
      end if;
    end loop;
    foreach protected in array array['feedback', 'client_events', 'approvals'] loop
      if to_regclass(protected) is not null then
        execute format('revoke insert, update on %I from rejoin_runner', protected);
      end if;
    end loop;
    -- A runner sends webhooks and may switch a receiver off that is gone. Where they go is the gateways' and operators'.
    if to_regclass('webhook_endpoints') is not null then
      revoke insert, update, delete on webhook_endpoints from rejoin_runner;
      grant update (disabled_at) on webhook_endpoints to rejoin_runner;
    end if;
    -- A runner reads limits, and locks a tenant while it counts its runs, which needs a column that it may update.
    if to_regclass('tenants') is not null then
      grant select, update (created_at) on tenants to rejoin_runner;
    end if;
    -- A runner asks, and lets questions expire or ends them with their run. The trigger `own_decision` keeps it from
    -- deciding. What was asked never changes.
    if to_regclass('approvals') is not null then
      grant insert, update (state, decided_at) on approvals to rejoin_runner;
    end if;
  end if;
end $$;
