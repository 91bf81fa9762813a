-- migrate:up

-- Admission of runs. The lock order of 0003_sessions applies.

-- Refuse a run if the tenant or the user has reached a limit. Queued runs are counted without a lock, so a burst may
-- exceed the limit slightly. A steering message that its run has read is no queued run, although its row stays until the run
-- ends. The tokens of a run are known once it ends or is suspended.
create function check_limits(p_tenant text, p_user text) returns void language plpgsql as $$
declare
  queued_max bigint := limit_of(p_tenant, 'queued_max');
  user_queued_max bigint := limit_of(p_tenant, 'user_queued_max');
  tokens_max bigint := limit_of(p_tenant, 'tokens_per_day');
  money_max bigint := limit_of(p_tenant, 'nano_usd_per_day');
  today timestamp := statement_timestamp() at time zone 'utc';
  until_midnight integer := ceil(extract(epoch from date_trunc('day', today) + interval '1 day' - today));
begin
  if queued_max is not null and queued_max <= (
    select count(*) from (
      select from runs where tenant_id = p_tenant and state = 'queued' and not taken limit queued_max) queued)
  then
    perform refuse('RJ429', format('the tenant has too many runs queued: at most %s', queued_max), 5);
  elsif p_user is not null and user_queued_max is not null and user_queued_max <= (
    select count(*) from (
      select from runs where tenant_id = p_tenant and user_id = p_user and state = 'queued' and not taken
      limit user_queued_max) queued)
  then
    perform refuse('RJ429', format('you have too many runs queued: at most %s', user_queued_max), 5);
  elsif tokens_max is not null and tokens_max <= spent_today(p_tenant) then
    perform refuse('RJ429', format('the tenant has used up its %s tokens of the day', tokens_max), until_midnight);
  elsif money_max is not null and money_max <= money_spent_today(p_tenant) then
    perform refuse(
      'RJ429', format('the tenant has used up its %s USD of the day', trim_scale(money_max / 1e9)), until_midnight);
  end if;
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

-- The run that an earlier identical request has created; null if the request is new. Stores nothing.
create function repeated_run(
  p_tenant text, p_user text, p_session text, p_agent text, p_key text, p_message text, p_digest bytea
) returns json language plpgsql as $$
declare
  made runs;
begin
  perform from sessions
  where tenant_id = p_tenant and id = p_session and agent = p_agent and (p_user is null or user_id = p_user);
  if not found then
    return null;
  end if;
  made := run_of_key(p_tenant, p_session, p_key, 'submit', p_message, p_digest);
  if made.id is null then
    select r.* into made from messages m join runs r on r.id = m.run_id
    where m.tenant_id = p_tenant and m.session_id = p_session and m.id = p_message and m.digest = p_digest;
  end if;
  return case when made.id is not null then run_json(made) end;
end
$$;

-- Apply `when_busy` to a locked session before a new run is added. An interrupt also denies the pending approvals
-- of suspended runs: these runs are ended before the new one begins. If p_from is given, delete the messages from
-- that position on: a busy run whose answer is among them must be interrupted and stores nothing further; a
-- suspended run, whose log is closed, is cancelled. Raises RJ423 if a run that is not interrupted blocks the new
-- one.
create function apply_when_busy(p_tenant text, p_session text, p_when_busy text, p_from bigint) returns void
language plpgsql as $$
begin
  if p_when_busy = 'interrupt' then
    perform mark_interrupted(id) from (
      select id from runs
      where tenant_id = p_tenant and session_id = p_session and (
        (state in ('queued', 'running') and (id = (current_run(p_tenant, p_session)).id or position >= p_from))
        or (state = 'suspended' and (p_from is null or position < p_from)))
      order by position) flagged;
    perform promote_run(p_tenant, p_session);
  elsif not session_occupied(p_tenant, p_session) then
    null;
  elsif p_when_busy = 'reject' then
    perform refuse('RJ423', 'the session is busy');
  elsif p_from is not null then
    perform refuse('RJ423', 'the session is busy: its messages cannot be replaced while a run answers them');
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
  home text := (select user_id from sessions where tenant_id = p_tenant and id = p_session);
  free boolean := not session_busy(p_tenant, p_session);
  places bigint;
  made runs;
begin
  perform check_limits(p_tenant, home);
  if free then
    places := lock_free_places(p_tenant, home);
    free := places is null or (places > 0 and not exists (select from promotable_runs(p_tenant)));
  end if;
  if p_remember then
    update sessions set context = p_context where tenant_id = p_tenant and id = p_session;
  end if;
  insert into runs (
    id, tenant_id, session_id, user_id, agent, trigger, user_message_id, answer_id, key, target, digest,
    position, ready, due_at, context)
  values (
    p_run, p_tenant, p_session, home, p_agent, p_trigger, p_message, p_answer, p_key, p_target, p_digest,
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

-- store_types.Submit. A stored message with the same digest returns the newest run that answers it. With `steer`, a new
-- message steers the session's current run. A message that is a part of an answer cannot be edited.
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
    elsif known.id is not null and (not p_edit or known.body is null) then
      perform refuse('RJ409', case when p_edit
        then 'the message steers a run: edit an earlier one' else 'the message id is taken by other content' end);
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
    if p_when_busy = 'steer' then
      made := steer_run(made);
    end if;
  end if;
  return admitted_json(made, p_run, p_when_busy);
end
$$;

-- store_types.Regenerate. A message that is a part of an answer, or waits to be one, is no message to answer again.
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
    where tenant_id = p_tenant and session_id = p_session and id = p_target
      and (body is not null or role = 'assistant');
    if not found then
      perform refuse('RJ404', 'there is no such message in the session');
    end if;
    keep_to := target.position - (target.role <> 'user')::int;
  end if;
  select * into asked from messages
  where tenant_id = p_tenant and session_id = p_session and role = 'user' and body is not null
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

-- The result of an admission, after the new run has got its operations.
create function with_operation_set(p_admitted json, p_operation_set text) returns json language plpgsql as $$
declare
  made runs;
begin
  if p_operation_set = 'none' or not (p_admitted ->> 'created')::boolean then
    return p_admitted;
  end if;
  update runs set operation_set = p_operation_set where id = p_admitted -> 'run' ->> 'id' returning * into made;
  return json_build_object(
    'run', run_json(made), 'created', true, 'interrupted', p_admitted -> 'interrupted');
end
$$;

-- `with_operation_set`, and the tools of the new run. p_tools: null for none.
create function with_request_tools(p_admitted json, p_operation_set text, p_tools json) returns json
language plpgsql as $$
begin
  if p_tools is not null and (p_admitted ->> 'created')::boolean then
    update runs set request_tools = p_tools where id = p_admitted -> 'run' ->> 'id';
  end if;
  return with_operation_set(p_admitted, p_operation_set);
end
$$;

-- `with_operation_set`, and the tools and the options of the new run. Each is null for none.
create function with_request_options(
  p_admitted json, p_operation_set text, p_tools json, p_options json
) returns json
language plpgsql as $$
begin
  if (p_tools is not null or p_options is not null) and (p_admitted ->> 'created')::boolean then
    update runs set request_tools = p_tools, request_options = p_options
    where id = p_admitted -> 'run' ->> 'id';
  end if;
  return with_operation_set(p_admitted, p_operation_set);
end
$$;

-- An admission, with the trace of the run if it is new.
create function with_trace(p_admitted json, p_trace text) returns json language plpgsql as $$
begin
  if p_trace is not null and (p_admitted ->> 'created')::boolean then
    update runs set trace = p_trace where id = p_admitted -> 'run' ->> 'id';
  end if;
  return p_admitted;
end
$$;

-- migrate:down

drop function with_trace, with_request_options, with_request_tools, with_operation_set, regenerate_run, submit_run,
  admitted_json, add_run, apply_when_busy, repeated_run, run_of_key, check_limits;
