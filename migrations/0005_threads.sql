-- migrate:up

-- Deleting a session deletes its runs; their logs in NATS must be deleted, too. Deleting a run stores its id here
-- until a runner's sweep has purged its log.

create table purges (
  run_id text primary key,
  due_at timestamptz not null default clock_timestamp(),
  -- Purged once already. The second purge deletes what a runner has appended meanwhile; it is the last.
  again boolean not null default false
);

create index purges_due on purges (due_at);

create function purge_run() returns trigger language plpgsql as $$
begin
  insert into purges (run_id) values (old.id) on conflict do nothing;
  return null;
end
$$;

create trigger purges after delete on runs for each row execute function purge_run();

-- The origin of a forked session, so that a repeated fork returns the same session.
alter table sessions add column forked_from text, add column forked_before text;

-- store_types.Artifact.
create function artifact_json(a artifacts) returns json language sql stable as $$
  select json_build_object(
    'id', a.id, 'session', a.session_id, 'run', a.run_id, 'type', a.type, 'name', a.name,
    'summary', a.summary, 'data', a.body, 'created_at', a.created_at)
$$;

-- store_types.ApiKeyRow.
create function key_json(k api_keys) returns json language sql stable as $$
  select json_build_object(
    'id', k.id, 'tenant', k.tenant_id, 'hash', bytes_json(k.hash), 'scopes', k.scopes, 'agent', k.agent,
    'user', k.user_id, 'name', k.name, 'created_at', k.created_at, 'expires_at', k.expires_at,
    'revoked_at', k.revoked_at, 'last_used_at', k.last_used_at)
$$;

-- store_types.SessionSummary.
create function thread_json(s sessions) returns json language sql stable as $$
  select json_build_object(
    'id', s.id, 'agent', s.agent, 'user', s.user_id, 'title', s.title, 'metadata', s.metadata,
    'created_at', s.created_at, 'updated_at', s.updated_at,
    'messages', (select count(*) from shown_messages(s.tenant_id, s.id)),
    'busy', session_busy(s.tenant_id, s.id),
    'last_message', (select id from shown_messages(s.tenant_id, s.id) order by position desc limit 1))
$$;

-- Copies messages with their ids and positions, but without their runs.
create function fork_session(p_tenant text, p_user text, p_session text, p_message text, p_into text) returns json
language plpgsql as $$
declare
  source sessions;
  made sessions;
  cut bigint;
begin
  if not lock_session(p_tenant, p_user, p_session) then
    perform refuse('RJ404', 'there is no such session');
  end if;
  select position into cut from messages
  where tenant_id = p_tenant and session_id = p_session and id = p_message;
  if not found then
    perform refuse('RJ404', 'there is no such message in the session');
  end if;
  select * into source from sessions where tenant_id = p_tenant and id = p_session;
  insert into sessions (
    tenant_id, id, agent, user_id, title, metadata, next_position, forked_from, forked_before)
  values (
    p_tenant, p_into, source.agent, source.user_id, source.title, source.metadata, cut, p_session, p_message)
  on conflict do nothing
  returning * into made;
  if found then
    insert into messages (tenant_id, session_id, id, position, role, body, created_at)
    select p_tenant, p_into, id, position, role, body, created_at
    from shown_messages(p_tenant, p_session) where position < cut;
  else
    select * into made from sessions
    where tenant_id = p_tenant and id = p_into and forked_from = p_session and forked_before = p_message
      and user_id is not distinct from source.user_id;
    if not found then
      perform refuse('RJ409', 'the session id is taken');
    end if;
  end if;
  return thread_json(made);
end
$$;

-- Delete the messages after a message.
create function rewind_session(p_tenant text, p_user text, p_session text, p_message text) returns json
language plpgsql as $$
declare
  kept bigint;
begin
  if not lock_session(p_tenant, p_user, p_session) then
    perform refuse('RJ404', 'there is no such session');
  end if;
  select position into kept from messages
  where tenant_id = p_tenant and session_id = p_session and id = p_message;
  if not found then
    perform refuse('RJ404', 'there is no such message in the session');
  end if;
  perform apply_when_busy(p_tenant, p_session, 'reject', kept + 1);
  return (select thread_json(s) from sessions s where tenant_id = p_tenant and id = p_session);
end
$$;

-- Returns the ids of the session's runs, whose logs are purged later.
create function delete_session(p_tenant text, p_user text, p_session text) returns json language plpgsql as $$
declare
  gone json;
begin
  if not lock_session(p_tenant, p_user, p_session) then
    return null;
  end if;
  select coalesce(json_agg(id order by position), '[]') into gone from runs
  where tenant_id = p_tenant and session_id = p_session;
  delete from sessions where tenant_id = p_tenant and id = p_session;
  return gone;
end
$$;

-- migrate:down

drop function delete_session, rewind_session, fork_session, thread_json, key_json, artifact_json;
alter table sessions drop column forked_from, drop column forked_before;
drop trigger purges on runs;
drop function purge_run;
drop table purges;
