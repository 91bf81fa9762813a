-- migrate:up

-- Admission of runs. The lock order of 0003_sessions applies.

-- Refuse a run if the tenant or the user has reached a limit. Queued runs are counted without a lock, so a burst may
-- exceed the limit slightly. A steering message that its run has read is no queued run, although its row stays until the run
-- ends. The tokens of a run are known once it ends or is suspended.
create function check_limits(p_tenant text, p_user text) returns void language plpgsql as $$
declare
  most record;
  today timestamp;
  until_midnight integer;
begin
  select limit_in(limits, 'queued_max') as queued, limit_in(limits, 'user_queued_max') as user_queued,
    limit_in(limits, 'tokens_per_day') as tokens, limit_in(limits, 'nano_usd_per_day') as money
  into most from (select p_tenant as id) asked left join tenants using (id);
  if most.queued is not null and most.queued <= (
    select count(*) from (
      select from runs where tenant_id = p_tenant and state = 'queued' and not taken limit most.queued) queued)
  then
    perform refuse('RJ429', format('the tenant has too many runs queued: at most %s', most.queued), 5);
  elsif p_user is not null and most.user_queued is not null and most.user_queued <= (
    select count(*) from (
      select from runs where tenant_id = p_tenant and user_id = p_user and state = 'queued' and not taken
      limit most.user_queued) queued)
  then
    perform refuse('RJ429', format('you have too many runs queued: at most %s', most.user_queued), 5);
  elsif most.tokens is null and most.money is null then
    return;
  end if;
  today := statement_timestamp() at time zone 'utc';
  until_midnight := ceil(extract(epoch from date_trunc('day', today) + interval '1 day' - today));
  if most.tokens <= spent_today(p_tenant) then
    perform refuse('RJ429', format('the tenant has used up its %s tokens of the day', most.tokens), until_midnight);
  elsif most.money <= money_spent_today(p_tenant) then
    perform refuse(
      'RJ429', format('the tenant has used up its %s USD of the day', trim_scale(most.money / 1e9)), until_midnight);
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
) returns json
language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
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
      state = 'cancelled', context = null, request_tools = null, request_options = null,
      ended_at = clock_timestamp(), updated_at = clock_timestamp()
    where tenant_id = p_tenant and session_id = p_session and position >= p_from and state = 'suspended'
    returning id)
  update approvals set state = 'cancelled', decided_at = clock_timestamp()
  where run_id in (select id from cancelled) and state = 'pending';
end
$$;

-- Create the run that answers a message in a locked session. The message and the answer have their rows already, and the
-- session has counted the bytes of p_tools and p_options, each null for none. p_is_new: the session has no other run. A run
-- whose stop has come already is made as an interrupted one: its runner ends it.
create function add_run(
  p_tenant text, p_owner text, p_session text, p_agent text, p_run text, p_answer text, p_place bigint, p_trigger text,
  p_message text, p_key text, p_target text, p_digest bytea, p_context bytea,
  p_operation_set text, p_tools json, p_options json, p_trace text, p_is_new boolean
) returns runs language plpgsql as $$
declare
  free boolean;
  places bigint;
  made runs;
begin
  perform check_limits(p_tenant, p_owner);
  free := p_is_new or not session_busy(p_tenant, p_session);
  if free then
    places := lock_free_places(p_tenant, p_session);
    free := places is null or (places > 0 and not exists (select from promotable_runs(p_tenant)));
  end if;
  insert into runs (
    id, tenant_id, session_id, user_id, agent, trigger, user_message_id, answer_id, key, target, digest,
    position, ready, due_at, context, operation_set, request_tools, request_options, trace, interrupted_at)
  values (
    p_run, p_tenant, p_session, p_owner, p_agent, p_trigger, p_message, p_answer, p_key, p_target, p_digest,
    p_place, free, case when free then clock_timestamp() end, p_context, p_operation_set, p_tools, p_options, p_trace,
    case when is_stopped(p_tenant, p_owner, p_session, p_message) then clock_timestamp() end)
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
  p_operation_set text, p_tools json, p_options json, p_trace text,
  p_message text, p_body json, p_digest bytea, p_edit boolean,
  p_import_ids text[], p_import_roles text[], p_import_bodies json[]
) returns json
language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
  request_bytes bigint := coalesce(octet_length(p_tools::text), 0) + coalesce(octet_length(p_options::text), 0);
  bytes bigint := octet_length(p_body::text) + request_bytes;
  place bigint := cardinality(p_import_ids);
  opened record;
  known messages;
  made runs;
begin
  opened := open_session(
    p_tenant, p_user, p_session, p_agent, place + 2, bytes, case when p_remember then p_context end);
  if opened.created then
    if place > 0 then
      with added as (
        insert into messages (tenant_id, session_id, id, position, role, body)
        select p_tenant, p_session, i.id, i.number - 1, i.role, i.body
        from unnest(p_import_ids, p_import_roles, p_import_bodies) with ordinality as i (id, role, body, number)
        where i.id not in (p_message, p_answer)
        order by i.number
        on conflict (tenant_id, session_id, id) do nothing
        returning size_bytes)
      select grow_session(p_tenant, p_session, coalesce(sum(size_bytes), 0)::bigint) into bytes from added;
    end if;
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
      select first, total into place, bytes from take_positions(
        p_tenant, p_session, 2, bytes, p_context, p_remember);
    end if;
    perform check_session_size(p_tenant, bytes - request_bytes);
    if request_bytes > 0 then
      perform check_session_size(p_tenant, bytes, 'messages, tools and options');
    end if;
    insert into messages (tenant_id, session_id, id, position, role, body, digest, run_id)
    values
      (p_tenant, p_session, p_message, place, 'user', p_body, p_digest, p_run),
      (p_tenant, p_session, p_answer, place + 1, 'assistant', null, null, p_run);
    made := add_run(
      p_tenant, opened.owner, p_session, p_agent, p_run, p_answer, place + 1, 'submit', p_message, p_key, p_message,
      p_digest, p_context, p_operation_set, p_tools, p_options, p_trace, opened.created);
    if p_when_busy = 'steer' then
      made := steer_run(made);
    end if;
  end if;
  return admitted_json(made, p_run, p_when_busy);
end
$$;

-- store_types.Regenerate. A message that is a part of an answer, or waits to be one, is no message to answer again. p_kept:
-- finished steps of another answer with which the new one begins; null: none. They are stored as the message of a suspension
-- from which the run goes on: its runner writes its log from that message, as when a log has expired.
create function regenerate_run(
  p_tenant text, p_user text, p_session text, p_agent text, p_run text, p_answer text, p_key text,
  p_when_busy text, p_context bytea, p_remember boolean,
  p_operation_set text, p_tools json, p_options json, p_trace text,
  p_target text, p_kept json
) returns json
language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
  request_bytes bigint := coalesce(octet_length(p_tools::text), 0) + coalesce(octet_length(p_options::text), 0);
  kept_bytes bigint := coalesce(octet_length(p_kept::text), 0);
  home record;
  target messages;
  asked messages;
  made runs;
  keep_to bigint;
  taken record;
begin
  select agent, user_id into home from sessions
  where tenant_id = p_tenant and id = p_session and (p_user is null or user_id = p_user) for no key update;
  if not found then
    perform refuse('RJ404', 'there is no such message in the session');
  elsif home.agent <> p_agent then
    perform refuse('RJ404', 'the session is not with this agent');
  end if;
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
  taken := take_positions(p_tenant, p_session, 1, request_bytes + kept_bytes, p_context, p_remember);
  if request_bytes + kept_bytes > 0 then
    perform check_session_size(p_tenant, taken.total, 'messages, tools and options');
  end if;
  insert into messages (tenant_id, session_id, id, position, role, body, run_id)
  values (p_tenant, p_session, p_answer, taken.first, 'assistant', p_kept, p_run);
  made := add_run(
    p_tenant, home.user_id, p_session, p_agent, p_run, p_answer, taken.first, 'regenerate', asked.id, p_key, p_target,
    null, p_context, p_operation_set, p_tools, p_options, p_trace, false);
  if p_kept is not null then
    update runs set turn = 1 where id = p_run returning * into made;
  end if;
  return admitted_json(made, p_run, p_when_busy);
end
$$;

-- migrate:down

drop function regenerate_run, submit_run, admitted_json, add_run, apply_when_busy, repeated_run, run_of_key, check_limits;
