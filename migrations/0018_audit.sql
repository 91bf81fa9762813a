-- migrate:up

-- Who did what, when and from where: keys, decisions of approvals, deletions, limits. Triggers write it, in the
-- transaction of the change, so that no way to the tables leaves it out. Services and commands say in
-- `rejoin.actor` and `rejoin.peer` on whose behalf they act; `role` is what the database itself knows. No foreign
-- keys: an entry outlives what it is about.
create table audit_log (
  number bigint primary key generated always as identity,
  at timestamptz not null default clock_timestamp(),
  tenant_id text not null,
  actor text not null,
  peer text,
  role text not null default session_user,
  action text not null,
  target text not null,
  detail json not null default '{}'
);

create index audit_log_of_tenant on audit_log (tenant_id, number);
create index audit_log_at on audit_log (at);

-- This and the triggers run as the owner: the services' roles cannot write or change entries in any other way.
create function record_audit(p_tenant text, p_action text, p_target text, p_detail json) returns void
language sql set search_path = public, pg_temp as $$
  insert into audit_log (tenant_id, actor, peer, action, target, detail)
  values (
    p_tenant,
    left(coalesce(nullif(current_setting('rejoin.actor', true), ''), 'database role ' || session_user), 300),
    left(nullif(current_setting('rejoin.peer', true), ''), 300),
    p_action, left(p_target, 300), coalesce(p_detail, '{}'))
$$;

revoke execute on function record_audit from public;

create function audit_key() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  k api_keys := coalesce(new, old);
begin
  perform record_audit(
    k.tenant_id,
    case
      when tg_op = 'INSERT' then 'key.created'
      when tg_op = 'DELETE' then 'key.deleted'
      when old.revoked_at is null and new.revoked_at is not null then 'key.revoked'
      else 'key.changed'
    end,
    k.id,
    json_build_object('scopes', k.scopes, 'agent', k.agent, 'user', k.user_id, 'name', left(k.name, 300)));
  return null;
end
$$;

create trigger audit after insert or delete on api_keys for each row execute function audit_key();

-- Every change but that of the last use.
create trigger audit_change after update on api_keys for each row
  when ((old.hash, old.scopes, old.agent, old.user_id, old.expires_at, old.revoked_at)
    is distinct from (new.hash, new.scopes, new.agent, new.user_id, new.expires_at, new.revoked_at))
  execute function audit_key();

create function audit_decision() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  -- The output of a client's tool is no decision.
  if new.kind = 'tool-output' then
    return null;
  end if;
  perform record_audit(
    new.tenant_id, 'approval.' || new.state, new.id,
    json_build_object(
      'session', new.session_id, 'run', new.run_id, 'tool', left(new.tool, 300),
      'edited', new.edited_input is not null));
  return null;
end
$$;

create trigger audit after update of state on approvals for each row
  when (old.state is distinct from new.state and new.state in ('approved', 'denied'))
  execute function audit_decision();
create trigger audit_decided after insert on approvals for each row
  when (new.state in ('approved', 'denied'))
  execute function audit_decision();

-- One entry for each statement and tenant: a sweep deletes many sessions at once.
create function audit_deletion() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  one record;
begin
  for one in
    select tenant_id, count(*) as sessions, (array_agg(id order by id))[1:100] as ids from gone group by tenant_id
  loop
    perform record_audit(
      one.tenant_id,
      'sessions.deleted',
      case when one.sessions = 1 then one.ids[1] else one.sessions || ' sessions' end,
      json_build_object('sessions', one.ids));
  end loop;
  return null;
end
$$;

create trigger audit after delete on sessions referencing old table as gone
  for each statement execute function audit_deletion();

create function audit_limits() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  perform record_audit(new.id, 'limits.set', new.id, new.limits::json);
  return null;
end
$$;

create trigger audit after update of limits on tenants for each row
  when (old.limits is distinct from new.limits) execute function audit_limits();
create trigger audit_first after insert on tenants for each row
  when (new.limits <> '{}') execute function audit_limits();

create function audit_webhook() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  e webhook_endpoints := coalesce(new, old);
begin
  perform record_audit(
    e.tenant_id,
    case
      when tg_op = 'INSERT' then 'webhook.added'
      when tg_op = 'DELETE' then 'webhook.removed'
      when old.secret is distinct from new.secret then 'webhook.rotated'
      when new.disabled_at is not null then 'webhook.disabled'
      else 'webhook.enabled'
    end,
    -- A URL's query may be a secret of the receiver.
    e.id, json_build_object('url', left(split_part(e.url, '?', 1), 300), 'events', e.events));
  return null;
end
$$;

create trigger audit after insert or delete on webhook_endpoints for each row execute function audit_webhook();
create trigger audit_change after update on webhook_endpoints for each row
  when ((old.secret, old.disabled_at is null) is distinct from (new.secret, new.disabled_at is null))
  execute function audit_webhook();

-- store_types.AuditEntry.
create function audit_json(a audit_log) returns json language sql stable as $$
  select json_build_object(
    'number', a.number, 'at', a.at, 'tenant', a.tenant_id, 'actor', a.actor, 'peer', a.peer, 'role', a.role,
    'action', a.action, 'target', a.target, 'detail', a.detail)
$$;

-- Delete old entries; returns how many. A stolen runner must not hide what it did: the last week always stays.
create function forget_audit(p_age_s double precision, p_max integer) returns bigint
language sql security definer set search_path = public, pg_temp as $$
  with old as (
    delete from audit_log where number in (
      select number from audit_log
      where at < clock_timestamp() - greatest(p_age_s, 7 * 86400) * interval '1 second'
      order by at limit p_max for update skip locked)
    returning number)
  select count(*) from old
$$;

-- migrate:down

drop function forget_audit, audit_json;
drop trigger audit_change on webhook_endpoints;
drop trigger audit on webhook_endpoints;
drop function audit_webhook;
drop trigger audit_first on tenants;
drop trigger audit on tenants;
drop function audit_limits;
drop trigger audit on sessions;
drop function audit_deletion;
drop trigger audit_decided on approvals;
drop trigger audit on approvals;
drop function audit_decision;
drop trigger audit_change on api_keys;
drop trigger audit on api_keys;
drop function audit_key, record_audit;
drop table audit_log;
