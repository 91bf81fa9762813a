-- migrate:up

-- Sessions: their names, their locks, their messages and runs as readers see them.
--
-- A function that changes which run of a session is ready locks the session's row before it reads: each statement of a
-- volatile function sees everything that was committed before the statement began. Lock order: the session's row, the
-- rows of its runs, and, if the tenant has a limit of ready runs, the tenant's row. The holder of the tenant's row may
-- make runs of any session ready and waits for no further lock: it skips rows that others have locked, and they look
-- again after it. Rows of several tenants are locked in the order of their ids. A function that concerns one run only
-- (claim, ask) locks only that run's row, never a session's.
--
-- The functions that each run calls (admission, claim, suspension, end) find few rows by keys. They plan each statement
-- once for a connection, and by indexes: so a plan from the time when a table was small stays right. A connection keeps one
-- plan for each statement, whoever calls its function: so all that call the same functions plan as they do.
--
-- Results are the JSON of the structs in adapters/rejoin_adapters/store_types.py. The caller is a tenant and a user;
-- with a null user it sees every session of the tenant.

-- Undo the call and raise an error with an SQLSTATE of its own: RJ400 invalid, RJ404 not found, RJ409 conflict,
-- RJ412 fenced, RJ423 busy, RJ429 limited (retry_after_s).
create function refuse(code text, reason text, retry_after_s integer default null) returns void
language plpgsql as $$
begin
  raise exception using errcode = code, message = reason, detail = coalesce(retry_after_s::text, '');
end
$$;

-- Bytes as msgspec encodes them in JSON: base64.
create function bytes_json(b bytea) returns text language sql immutable as $$
  select translate(encode(b, 'base64'), E'\n', '')
$$;

create function run_json(r runs) returns json language sql stable as $$
  select json_build_object(
    'id', r.id, 'tenant', r.tenant_id, 'session', r.session_id, 'agent', r.agent, 'answer', r.answer_id,
    'state', r.state, 'ready', r.ready, 'turn', r.turn, 'attempt', r.attempt, 'error', r.error,
    'error_code', r.error_code,
    'interrupted', r.interrupted_at is not null, 'user', r.user_id,
    'user_message', r.user_message_id, 'operation_set', r.operation_set, 'steers', r.steers, 'trace', r.trace,
    'usage', json_build_object(
      'input_tokens', r.input_tokens, 'output_tokens', r.output_tokens, 'cost_nano_usd', r.cost_nano_usd))
$$;

create function request_json(r runs) returns json language sql stable as $$
  select json_build_object('agent', r.agent, 'run', r.id, 'turn', r.turn, 'trace', r.trace)
$$;

create function listed_json(r runs) returns json language sql stable as $$
  select json_build_object(
    'run', run_json(r), 'created_at', r.created_at, 'updated_at', r.updated_at, 'runner', r.runner,
    'started_at', r.started_at, 'ended_at', r.ended_at)
$$;

-- Two users of one tenant may both call a session `1`. A session's id is unique in the tenant: the first session of
-- that name has the name as its id, the sessions of other users have the name with a mark of their user behind it. No
-- stored id changes. rejoin_adapters/session_keys.py has the same rule, and takes the mark off for the user.
create function user_suffix(p_user text) returns text language sql immutable as $$
  select '~' || left(encode(sha256(convert_to(p_user, 'UTF8')), 'hex'), 16)
$$;

-- The id of the session that a user calls p_name, whether it exists or not. Without a user: that name, because it is an
-- id already.
create function session_key(p_tenant text, p_user text, p_name text) returns text language plpgsql stable as $$
declare
  marked text;
begin
  if p_user is null then
    return p_name;
  end if;
  marked := p_name || user_suffix(p_user);
  if exists (select from sessions where tenant_id = p_tenant and id = marked and user_id = p_user)
    or exists (select from sessions where tenant_id = p_tenant and id = p_name and user_id is distinct from p_user)
  then
    return marked;
  end if;
  return p_name;
end
$$;

create function check_session_id() returns trigger language plpgsql as $$
begin
  if right(new.id, 17) is distinct from user_suffix(new.user_id) then
    perform refuse('RJ400', 'a session id does not end with ~ and 16 hexadecimal digits');
  end if;
  return new;
end
$$;

create trigger ids before insert on sessions
  for each row when (new.id ~ '~[0-9a-f]{16}$') execute function check_session_id();

-- Lock the name of a session until the transaction ends. A session that does not exist has no row to lock: a
-- stop of it and the insert of its row take this lock first, so that one of them sees the other.
create function lock_session_name(p_tenant text, p_session text) returns void language sql as $$
  select pg_advisory_xact_lock(hashtextextended(p_tenant || E'\n' || p_session, 0))
$$;

create function lock_new_session() returns trigger language plpgsql as $$
begin
  perform lock_session_name(new.tenant_id, new.id);
  return new;
end
$$;

create trigger session_name before insert on sessions for each row execute function lock_new_session();

-- Lock a session; false if the user has no session with this id.
create function lock_session(p_tenant text, p_user text, p_session text) returns boolean
language plpgsql as $$
begin
  perform from sessions
  where tenant_id = p_tenant and id = p_session and (p_user is null or user_id = p_user) for no key update;
  return found;
end
$$;

-- Lock the session, creating it if necessary. `created`: it was created here, with its first p_taken positions, p_bytes and
-- its context. `owner`: its user.
create function open_session(
  p_tenant text, p_user text, p_session text, p_agent text, p_taken bigint, p_bytes bigint, p_context bytea,
  out created boolean, out owner text
) language plpgsql as $$
declare
  home text;
begin
  loop  -- what was there may be deleted meanwhile
    select agent, user_id into home, owner from sessions
    where tenant_id = p_tenant and id = p_session for no key update;
    created := not found;
    exit when not created;
    if not exists (select from tenants where id = p_tenant) then
      insert into tenants (id) values (p_tenant) on conflict do nothing;
    end if;
    insert into sessions (tenant_id, id, agent, user_id, next_position, size_bytes, context)
    values (p_tenant, p_session, p_agent, p_user, p_taken, p_bytes, p_context)
    on conflict do nothing;
    if found then
      owner := p_user;
      return;
    end if;
  end loop;
  if p_user is not null and owner is distinct from p_user then
    perform refuse('RJ404', 'there is no such session');
  elsif home <> p_agent then
    perform refuse('RJ404', 'the session is not with this agent');
  end if;
end
$$;

-- Reserve positions and bytes in a locked session, and perhaps remember a context; returns the first position, and the
-- session's bytes.
create function take_positions(
  p_tenant text, p_session text, p_count bigint, p_bytes bigint, p_context bytea, p_remember boolean,
  out first bigint, out total bigint
) language sql as $$
  update sessions set next_position = next_position + p_count, size_bytes = size_bytes + p_bytes,
    context = case when p_remember then p_context else context end, updated_at = clock_timestamp()
  where tenant_id = p_tenant and id = p_session
  returning next_position - p_count, size_bytes
$$;

create function session_busy(p_tenant text, p_session text) returns boolean
language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
begin
  return exists (
    select from runs
    where tenant_id = p_tenant and session_id = p_session and state in ('queued', 'running'));
end
$$;

-- Whether the session has a queued or running run that is not interrupted.
create function session_occupied(p_tenant text, p_session text) returns boolean language plpgsql as $$
begin
  return exists (
    select from runs
    where tenant_id = p_tenant and session_id = p_session and state in ('queued', 'running')
      and interrupted_at is null);
end
$$;

-- The current run of a session: the ready one, else the first in its queue.
create function current_run(p_tenant text, p_session text) returns runs
language plpgsql stable set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
  first runs;
begin
  select * into first from runs
  where tenant_id = p_tenant and session_id = p_session and state in ('queued', 'running')
  order by ready desc, position limit 1;
  return first;
end
$$;

-- The messages of a session that readers see: without the answers of queued and running runs, which the streams of
-- these runs replay completely.
create function shown_messages(p_tenant text, p_session text) returns setof messages language sql stable as $$
  select * from messages
  where tenant_id = p_tenant and session_id = p_session and body is not null
    and (role <> 'assistant' or run_id is null or run_id <> all (array(
      select id from runs
      where tenant_id = p_tenant and session_id = p_session and state in ('queued', 'running'))))
$$;

-- How a session began: of each text of its first user message, the first 200 characters. Null if it has no text.
-- PostgreSQL reads no JSON that has a NUL in a string: here it becomes the replacement character.
create function session_opening(p_tenant text, p_session text) returns text language sql stable as $$
  select nullif(string_agg(left(part ->> 'text', 200), ''), '')
  from json_array_elements((
      select replace(body::text, '\u0000', '\ufffd')::json -> 'parts' from shown_messages(p_tenant, p_session)
      where role = 'user' order by position limit 1)) part
  where part ->> 'type' = 'text'
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

-- migrate:down

drop function key_json, artifact_json, thread_json, session_opening, shown_messages, current_run, session_occupied,
  session_busy, take_positions, open_session, lock_session;
drop trigger session_name on sessions;
drop function lock_new_session, lock_session_name;
drop trigger ids on sessions;
drop function check_session_id, session_key, user_suffix, listed_json, request_json, run_json, bytes_json, refuse;
