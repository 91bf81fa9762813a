-- migrate:up

-- Admission of runs. A function that changes which run of a session is ready locks the session's row before it
-- reads: each statement of a volatile function sees everything that was committed before the statement began.
-- Lock order: the session's row, the rows of its runs, and, if the tenant has a limit of ready runs, the tenant's
-- row. The holder of the tenant's row may make runs of any session ready and waits for no further lock: it skips
-- rows that others have locked, and they look again after it. Rows of several tenants are locked in the order of
-- their ids. A function that concerns one run only (claim, ask) locks only that run's row, never a session's.
--
-- Errors have SQLSTATEs of their own and undo the whole call: RJ400 invalid, RJ404 not found, RJ409 conflict,
-- RJ412 fenced, RJ429 limited. Results are the JSON of the structs in adapters/rejoin_adapters/store_types.py.
--
-- The caller is a tenant and a user; with a null user it sees every session of the tenant.

create function refuse(code text, reason text, retry_after_s integer default null) returns void
language plpgsql as $$
begin
  raise exception using errcode = code, message = reason, detail = coalesce(retry_after_s::text, '');
end
$$;

create function run_json(r runs) returns json language sql stable as $$
  select json_build_object(
    'id', r.id, 'tenant', r.tenant_id, 'session', r.session_id, 'agent', r.agent, 'answer', r.answer_id,
    'state', r.state, 'ready', r.ready, 'turn', r.turn, 'attempt', r.attempt, 'error', r.error,
    'interrupted', r.interrupted_at is not null, 'user', r.user_id,
    'usage', json_build_object('input_tokens', r.input_tokens, 'output_tokens', r.output_tokens))
$$;

create function listed_json(r runs) returns json language sql stable as $$
  select json_build_object(
    'run', run_json(r), 'created_at', r.created_at, 'updated_at', r.updated_at, 'runner', r.runner)
$$;

-- Bytes as msgspec encodes them in JSON: base64.
create function bytes_json(b bytea) returns text language sql immutable as $$
  select translate(encode(b, 'base64'), E'\n', '')
$$;

create function request_json(r runs) returns json language sql stable as $$
  select json_build_object('agent', r.agent, 'run', r.id, 'turn', r.turn)
$$;

create function approval_json(a approvals) returns json language sql stable as $$
  select json_build_object(
    'question', json_build_object(
      'id', a.id, 'call', a.call_id, 'tool', a.tool, 'input', a.input, 'expires_at', a.expires_at),
    'decision', case when a.state in ('approved', 'denied', 'expired') then json_build_object(
      'approval', a.id, 'approved', a.state = 'approved', 'reason', a.reason) end,
    'turn', a.turn, 'expired', a.state = 'expired')
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

create function session_busy(p_tenant text, p_session text) returns boolean language plpgsql as $$
begin
  return exists (
    select from runs
    where tenant_id = p_tenant and session_id = p_session and state in ('queued', 'running'));
end
$$;

-- A limit of a tenant, else the default in the settings of this connection; null: no limit.
create function limit_of(p_tenant text, p_name text) returns bigint language plpgsql stable as $$
begin
  return coalesce(
    (select (limits ->> p_name)::bigint from tenants where id = p_tenant),
    nullif(current_setting('rejoin.' || p_name, true), '')::bigint);
end
$$;

-- The current run of a session: the ready one, else the first in its queue.
create function current_run(p_tenant text, p_session text) returns runs language plpgsql stable as $$
declare
  first runs;
begin
  select * into first from runs
  where tenant_id = p_tenant and session_id = p_session and state in ('queued', 'running')
  order by ready desc, position limit 1;
  return first;
end
$$;

-- The runs that wait only for a place among their tenant's ready runs.
create view waiting_runs as
  select id, tenant_id, session_id, number from runs r
  where state = 'queued' and not ready and not exists (
    select from runs other
    where other.tenant_id = r.tenant_id and other.session_id = r.session_id
      and other.state in ('queued', 'running') and (other.ready or other.position < r.position)
    offset 0);  -- looked up run by run: the first few are wanted, and a join would look at all

create function count_ready(p_tenant text) returns bigint language sql stable as $$
  select count(*) from runs where tenant_id = p_tenant and ready and state in ('queued', 'running')
$$;

-- How many more runs of a tenant may be ready; locks the tenant's row. Null, and no lock, without a limit.
create function free_places(p_tenant text) returns bigint language plpgsql as $$
begin
  if limit_of(p_tenant, 'running_max') is null then
    return null;
  end if;
  perform from tenants where id = p_tenant for no key update;
  return limit_of(p_tenant, 'running_max') - count_ready(p_tenant);
end
$$;

-- Make the current run of a locked session ready, if its tenant has a place and no other run has waited longer.
-- Returns the request of the ready run if it waits for a claim. An interrupted run needs no place: a runner only
-- ends it.
create function promote_run(p_tenant text, p_session text) returns json language plpgsql as $$
declare
  -- Before the first read: the holder of the tenant's row may make runs of this session ready, too.
  places bigint := free_places(p_tenant);
  first runs := current_run(p_tenant, p_session);
begin
  if not first.ready then
    update runs set ready = true, due_at = clock_timestamp(), updated_at = clock_timestamp()
    where id = first.id and not ready
      and (places is null or first.interrupted_at is not null or (places > 0 and not exists (
        select from waiting_runs where tenant_id = p_tenant and number < first.number)))
    returning * into first;
  end if;
  return case when first.due_at is not null then request_json(first) end;
end
$$;

-- Give a free place of a tenant to the run of any of its sessions that has waited longest, and return its request.
create function promote_next(p_tenant text) returns json language plpgsql as $$
declare
  next runs;
begin
  if free_places(p_tenant) > 0 then
    update runs set ready = true, due_at = clock_timestamp(), updated_at = clock_timestamp()
    where id = (
      select id from waiting_runs where tenant_id = p_tenant
      order by number limit 1 for no key update skip locked)
    returning * into next;
  end if;
  return case when next.id is not null then request_json(next) end;
end
$$;

create function spent_today(p_tenant text) returns bigint language sql stable as $$
  select coalesce(sum(tokens), 0)::bigint from spending
  where tenant_id = p_tenant and day = (statement_timestamp() at time zone 'utc')::date
$$;

-- Refuse a run if the tenant has reached a limit. Queued runs are counted without a lock, so a burst may exceed the
-- limit slightly. The tokens of a run are known once it ends or is suspended.
create function check_limits(p_tenant text) returns void language plpgsql as $$
declare
  queued_max bigint := limit_of(p_tenant, 'queued_max');
  tokens_max bigint := limit_of(p_tenant, 'tokens_per_day');
  today timestamp := statement_timestamp() at time zone 'utc';
begin
  if queued_max is not null and queued_max <= (
    select count(*) from (
      select from runs where tenant_id = p_tenant and state = 'queued' limit queued_max) queued)
  then
    perform refuse('RJ429', 'the tenant has too many runs queued', 5);
  elsif tokens_max is not null and tokens_max <= spent_today(p_tenant) then
    perform refuse(
      'RJ429', 'the tenant has used up its tokens of the day',
      ceil(extract(epoch from date_trunc('day', today) + interval '1 day' - today))::integer);
  end if;
end
$$;

-- Lock a session; false if the user has no session with this id.
create function lock_session(p_tenant text, p_user text, p_session text) returns boolean
language plpgsql as $$
begin
  perform from sessions
  where tenant_id = p_tenant and id = p_session and (p_user is null or user_id = p_user) for no key update;
  return found;
end
$$;

-- A session belongs to one agent; for other agents it does not exist.
create function check_agent(p_tenant text, p_session text, p_agent text) returns void language plpgsql as $$
begin
  perform from sessions where tenant_id = p_tenant and id = p_session and agent = p_agent;
  if not found then
    perform refuse('RJ404', 'the session is not with this agent');
  end if;
end
$$;

-- Lock the session, creating it if necessary, and reserve positions. True if it was created here.
create function open_session(
  p_tenant text, p_user text, p_session text, p_agent text, p_taken bigint
) returns boolean
language plpgsql as $$
declare
  opened sessions;
begin
  loop  -- what was there may be deleted meanwhile
    select * into opened from sessions where tenant_id = p_tenant and id = p_session for no key update;
    exit when found;
    insert into tenants (id) values (p_tenant) on conflict do nothing;
    insert into sessions (tenant_id, id, agent, user_id, next_position)
    values (p_tenant, p_session, p_agent, p_user, p_taken)
    on conflict do nothing;
    if found then
      return true;
    end if;
  end loop;
  if p_user is not null and opened.user_id is distinct from p_user then
    perform refuse('RJ404', 'there is no such session');
  elsif opened.agent <> p_agent then
    perform refuse('RJ404', 'the session is not with this agent');
  end if;
  return false;
end
$$;

-- Reserve positions in a locked session; returns the first.
create function take_positions(p_tenant text, p_session text, p_count bigint) returns bigint language plpgsql as $$
declare
  behind bigint;
begin
  update sessions set next_position = next_position + p_count, updated_at = clock_timestamp()
  where tenant_id = p_tenant and id = p_session
  returning next_position into behind;
  return behind - p_count;
end
$$;

-- Flag a run of a locked session as interrupted: the runner that has it, or claims it, ends it. Its pending
-- approvals are cancelled; a suspended run is queued for the turn in which a runner ends it.
create function mark_interrupted(p_run text) returns void language plpgsql as $$
begin
  update runs set
    interrupted_at = clock_timestamp(), updated_at = clock_timestamp(),
    turn = turn + (state = 'suspended')::int,
    ready = ready and state <> 'suspended',
    state = case state when 'suspended' then 'queued' else state end
  where id = p_run and interrupted_at is null and ended_at is null;
  update approvals set state = 'cancelled', decided_at = clock_timestamp()
  where run_id = p_run and state = 'pending';
end
$$;

-- The run that was created with an idempotency key in a locked session; all null if the key is new.
create function run_of_key(
  p_tenant text, p_session text, p_key text, p_trigger text, p_target text, p_digest bytea
) returns runs language plpgsql as $$
declare
  made runs;
begin
  select * into made from runs where tenant_id = p_tenant and session_id = p_session and key = p_key;
  if found and (made.trigger, made.target, made.digest) is distinct from (p_trigger, p_target, p_digest) then
    perform refuse('RJ409', 'the idempotency key is taken by another request');
  end if;
  return made;
end
$$;

-- Apply `when_busy` to a locked session before a new run is added. If p_from is given, delete the messages from
-- that position on: a busy run whose answer is among them is interrupted and stores nothing further; a suspended
-- run, whose log is closed, is cancelled.
create function apply_when_busy(p_tenant text, p_session text, p_when_busy text, p_from bigint) returns void
language plpgsql as $$
begin
  if not session_busy(p_tenant, p_session) then
    null;
  elsif p_when_busy = 'reject' then
    perform refuse('RJ409', 'the session is busy');
  elsif p_when_busy = 'interrupt' then
    perform mark_interrupted(id) from runs
    where tenant_id = p_tenant and session_id = p_session and state in ('queued', 'running')
      and (id = (current_run(p_tenant, p_session)).id or position >= p_from);
    perform promote_run(p_tenant, p_session);
  elsif p_from is not null then
    perform refuse('RJ409', 'the session is busy: its messages cannot be replaced while a run answers them');
  end if;
  if p_from is null then
    return;
  end if;
  delete from messages where tenant_id = p_tenant and session_id = p_session and position >= p_from;
  with cancelled as (
    update runs set
      state = 'cancelled', context = null, ended_at = clock_timestamp(), updated_at = clock_timestamp()
    where tenant_id = p_tenant and session_id = p_session and position >= p_from and state = 'suspended'
    returning id)
  update approvals set state = 'cancelled', decided_at = clock_timestamp()
  where run_id in (select id from cancelled) and state = 'pending';
end
$$;

-- Create the run that answers a message in a locked session. The message and the answer have their rows already.
create function add_run(
  p_tenant text, p_session text, p_agent text, p_run text, p_answer text, p_place bigint, p_trigger text,
  p_message text, p_key text, p_target text, p_digest bytea, p_context bytea, p_remember boolean
) returns runs language plpgsql as $$
declare
  free boolean := not session_busy(p_tenant, p_session);
  places bigint;
  made runs;
begin
  perform check_limits(p_tenant);
  if free then
    places := free_places(p_tenant);
    free := places is null or (places > 0 and not exists (
      select from waiting_runs where tenant_id = p_tenant));
  end if;
  if p_remember then
    update sessions set context = p_context where tenant_id = p_tenant and id = p_session;
  end if;
  insert into runs (
    id, tenant_id, session_id, user_id, agent, trigger, user_message_id, answer_id, key, target, digest,
    position, ready, due_at, context)
  values (
    p_run, p_tenant, p_session, (select user_id from sessions where tenant_id = p_tenant and id = p_session),
    p_agent, p_trigger, p_message, p_answer, p_key, p_target, p_digest,
    p_place, free, case when free then clock_timestamp() end, p_context)
  returning * into made;
  return made;
end
$$;

-- The result of an admission; the same for a repeated request.
create function admitted_json(made runs, p_run text, p_when_busy text) returns json language plpgsql as $$
declare
  interrupted runs;
begin
  if made.id = p_run and p_when_busy = 'interrupt' then
    select * into interrupted from runs
    where tenant_id = made.tenant_id and session_id = made.session_id and ready
      and state in ('queued', 'running') and interrupted_at is not null and id <> p_run;
  end if;
  return json_build_object(
    'run', run_json(made), 'created', made.id = p_run,
    'interrupted', case when interrupted.id is not null then run_json(interrupted) end);
end
$$;

-- store_types.Submit. A stored message with the same digest returns the newest run that answers it.
create function submit_run(
  p_tenant text, p_user text, p_session text, p_agent text, p_run text, p_answer text, p_key text,
  p_when_busy text, p_context bytea, p_remember boolean,
  p_message text, p_body json, p_digest bytea, p_edit boolean,
  p_import_ids text[], p_import_roles text[], p_import_bodies json[]
) returns json language plpgsql as $$
declare
  known messages;
  made runs;
  place bigint := cardinality(p_import_ids);
begin
  if open_session(p_tenant, p_user, p_session, p_agent, place + 2) then
    insert into messages (tenant_id, session_id, id, position, role, body)
    select p_tenant, p_session, i.id, i.number - 1, i.role, i.body
    from unnest(p_import_ids, p_import_roles, p_import_bodies) with ordinality as i (id, role, body, number)
    where i.id not in (p_message, p_answer)
    order by i.number
    on conflict (tenant_id, session_id, id) do nothing;
  else
    place := null;
    made := run_of_key(p_tenant, p_session, p_key, 'submit', p_message, p_digest);
    select * into known from messages
    where tenant_id = p_tenant and session_id = p_session and id = p_message;
  end if;
  if made.id is null and known.digest = p_digest then
    select * into made from runs where id = known.run_id;
  elsif made.id is null then
    if known.role <> 'user' then
      perform refuse('RJ409', 'the message id is taken by a message that is not the user''s');
    elsif known.id is not null and not p_edit then
      perform refuse('RJ409', 'the message id is taken by other content');
    end if;
    if place is null then  -- else the session was made here, and nothing is in the way
      perform apply_when_busy(p_tenant, p_session, p_when_busy, known.position);
      place := take_positions(p_tenant, p_session, 2);
    end if;
    insert into messages (tenant_id, session_id, id, position, role, body, digest, run_id)
    values
      (p_tenant, p_session, p_message, place, 'user', p_body, p_digest, p_run),
      (p_tenant, p_session, p_answer, place + 1, 'assistant', null, null, p_run);
    made := add_run(
      p_tenant, p_session, p_agent, p_run, p_answer, place + 1, 'submit', p_message, p_key, p_message, p_digest,
      p_context, p_remember);
  end if;
  return admitted_json(made, p_run, p_when_busy);
end
$$;

-- store_types.Regenerate.
create function regenerate_run(
  p_tenant text, p_user text, p_session text, p_agent text, p_run text, p_answer text, p_key text,
  p_when_busy text, p_context bytea, p_remember boolean,
  p_target text
) returns json language plpgsql as $$
declare
  target messages;
  asked messages;
  made runs;
  keep_to bigint;
  place bigint;
begin
  if not lock_session(p_tenant, p_user, p_session) then
    perform refuse('RJ404', 'there is no such message in the session');
  end if;
  perform check_agent(p_tenant, p_session, p_agent);
  made := run_of_key(p_tenant, p_session, p_key, 'regenerate', p_target, null);
  if made.id is null then  -- perhaps the same call again, after its answer was lost
    select * into made from runs where id = p_run and tenant_id = p_tenant and session_id = p_session;
  end if;
  if made.id is not null then
    return admitted_json(made, p_run, p_when_busy);
  end if;
  if p_target is not null then
    select * into target from messages
    where tenant_id = p_tenant and session_id = p_session and id = p_target;
    if not found then
      perform refuse('RJ404', 'there is no such message in the session');
    end if;
    keep_to := target.position - (target.role <> 'user')::int;
  end if;
  select * into asked from messages
  where tenant_id = p_tenant and session_id = p_session and role = 'user'
    and position <= coalesce(keep_to, 9223372036854775807)
  order by position desc limit 1;
  if not found then
    perform refuse('RJ404', 'there is no message to answer again');
  end if;
  perform apply_when_busy(p_tenant, p_session, p_when_busy, coalesce(keep_to, asked.position) + 1);
  update messages set run_id = p_run
  where tenant_id = p_tenant and session_id = p_session and id = asked.id;
  place := take_positions(p_tenant, p_session, 1);
  insert into messages (tenant_id, session_id, id, position, role, run_id)
  values (p_tenant, p_session, p_answer, place, 'assistant', p_run);
  made := add_run(
    p_tenant, p_session, p_agent, p_run, p_answer, place, 'regenerate', asked.id, p_key, p_target, null,
    p_context, p_remember);
  return admitted_json(made, p_run, p_when_busy);
end
$$;

-- migrate:down

drop function regenerate_run, submit_run, admitted_json, add_run, apply_when_busy, run_of_key, mark_interrupted, take_positions,
  open_session, check_agent, lock_session, check_limits, spent_today, promote_next, promote_run, free_places, count_ready;
drop view waiting_runs;
drop function current_run, limit_of, session_busy, shown_messages, approval_json, request_json, bytes_json, listed_json, run_json, refuse;
