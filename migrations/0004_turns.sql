-- migrate:up

-- Everything that happens to a run after its admission. The lock order of 0003 applies. An interrupted run has no
-- pending approvals.

-- Lock the session of a run, then the run. An attempt that is not the newest is fenced.
create function lock_attempt(p_run text, p_attempt integer) returns runs language plpgsql as $$
declare
  held runs;
begin
  select * into held from runs where id = p_run;
  perform from sessions where tenant_id = held.tenant_id and id = held.session_id for no key update;
  select * into held from runs where id = p_run for no key update;
  if not found or held.attempt <> p_attempt then
    perform refuse('RJ412', 'another attempt owns the run');
  end if;
  return held;
end
$$;

-- The answer's row of an interrupted run may be deleted, and another message may have its id.
create function store_answer(r runs, p_answer json, p_tokens bigint) returns void language plpgsql as $$
begin
  update messages set body = p_answer
  where tenant_id = r.tenant_id and session_id = r.session_id and id = r.answer_id and run_id = r.id
    and role = 'assistant' and p_answer is not null;
  if p_tokens > r.input_tokens + r.output_tokens then
    insert into spending (tenant_id, shard, day, tokens)
    values (
      r.tenant_id, hashtext(r.session_id) & 7, (clock_timestamp() at time zone 'utc')::date,
      p_tokens - r.input_tokens - r.output_tokens)
    on conflict (tenant_id, shard) do update set
      tokens = excluded.tokens + case when spending.day = excluded.day then spending.tokens else 0 end,
      day = excluded.day;
  end if;
  update sessions set updated_at = clock_timestamp() where tenant_id = r.tenant_id and id = r.session_id;
end
$$;

-- At most p_max of the newest messages; the first of them is then a user's message.
create function claim_run(p_run text, p_turn integer, p_runner text, p_history_max bigint) returns json
language plpgsql as $$
declare
  mine runs;
  left_out bigint;
begin
  select * into mine from runs where id = p_run for no key update;
  if not found or mine.turn <> p_turn or not mine.ready or mine.state not in ('queued', 'running') then
    return null;
  end if;
  update runs set state = 'running', attempt = attempt + 1, runner = p_runner, due_at = null,
    started_at = coalesce(started_at, clock_timestamp()), updated_at = clock_timestamp()
  where id = p_run
  returning * into mine;
  if p_history_max is not null then
    select position into left_out from messages
    where tenant_id = mine.tenant_id and session_id = mine.session_id and position < mine.position
      and body is not null
    order by position desc offset p_history_max limit 1;
  end if;
  return json_build_object(
    'run', run_json(mine),
    'history', (
      select coalesce(json_agg(body order by position), '[]') from messages
      where tenant_id = mine.tenant_id and session_id = mine.session_id and position < mine.position
        and body is not null and (left_out is null or position >= (
          select min(position) from messages
          where tenant_id = mine.tenant_id and session_id = mine.session_id and role = 'user'
            and position > left_out and position < mine.position))),
    'answer', (
      select body from messages
      where tenant_id = mine.tenant_id and session_id = mine.session_id and id = mine.answer_id
        and run_id = mine.id and role = 'assistant'),
    'approvals', (
      select coalesce(json_agg(approval_json(a) order by number), '[]') from approvals a
      where run_id = mine.id),
    'context', bytes_json(coalesce(mine.context, (
      select context from sessions where tenant_id = mine.tenant_id and id = mine.session_id))));
end
$$;

create function request_approvals(
  p_run text, p_attempt integer,
  p_ids text[], p_calls text[], p_tools text[], p_inputs json[], p_expiries timestamptz[]
) returns void language plpgsql as $$
declare
  mine runs;
begin
  select * into mine from runs where id = p_run and attempt = p_attempt and state = 'running' for no key update;
  if not found then
    perform refuse('RJ412', 'another attempt owns the run');
  end if;
  insert into approvals (
    id, tenant_id, session_id, run_id, turn, call_id, tool, input, expires_at, state, decided_at)
  select
    q.id, mine.tenant_id, mine.session_id, mine.id, mine.turn, q.call, q.tool, q.input, q.expires_at,
    case when mine.interrupted_at is null then 'pending' else 'cancelled' end, mine.interrupted_at
  from unnest(p_ids, p_calls, p_tools, p_inputs, p_expiries) with ordinality
    as q (id, call, tool, input, expires_at, number)
  order by q.number
  on conflict (id) do nothing;
end
$$;

-- Queue the next turn of a suspended run of a locked session if it has no pending approval any more.
create function resume_run(p_run text) returns runs language plpgsql as $$
declare
  mine runs;
begin
  update runs set state = 'queued', ready = false, turn = turn + 1, updated_at = clock_timestamp()
  where id = p_run and state = 'suspended'
    and not exists (select from approvals where run_id = p_run and state = 'pending')
  returning * into mine;
  if found then
    perform promote_run(mine.tenant_id, mine.session_id);
  end if;
  select * into mine from runs where id = p_run;
  return mine;
end
$$;

create function decide_run(
  p_tenant text, p_user text, p_session text, p_ids text[], p_approved boolean[], p_reasons json[]
) returns json language plpgsql as $$
declare
  mine runs;
  asked approvals;
  wanted text;
begin
  if not lock_session(p_tenant, p_user, p_session) or exists (
    select from unnest(p_ids) as d (id)
    left join approvals a on a.id = d.id and a.tenant_id = p_tenant and a.session_id = p_session
    where a.id is null)
  then
    perform refuse('RJ404', 'there is no such approval in the session');
  elsif (select count(distinct run_id) from approvals where id = any (p_ids)) <> 1 then
    perform refuse('RJ400', 'the decisions are not all of one run');
  end if;
  for n in 1 .. cardinality(p_ids) loop
    wanted := case when p_approved[n] then 'approved' else 'denied' end;
    select * into asked from approvals where id = p_ids[n];
    if asked.state = 'pending' and asked.expires_at <= clock_timestamp() then
      perform refuse('RJ409', 'the approval is expired already');  -- as the next sweep will write down
    elsif asked.state = 'pending' then
      update approvals set state = wanted, reason = p_reasons[n], decided_at = clock_timestamp()
      where id = asked.id;
    elsif asked.state <> wanted then
      perform refuse('RJ409', format('the approval is %s already', asked.state));
    end if;
  end loop;
  mine := resume_run(asked.run_id);
  return json_build_object(
    'run', run_json(mine), 'turn', (select max(turn) + 1 from approvals where id = any (p_ids)));
end
$$;

-- Deny approvals that have expired. Skips locked sessions; the next sweep finds them. Since it never waits for a
-- session's lock, it may hold several.
create function expire_approvals(p_max integer) returns json language plpgsql as $$
declare
  due record;
  mine runs;
  requests json[] := '{}';
begin
  for due in
    select distinct tenant_id, session_id, run_id from (
      select * from approvals where state = 'pending' and expires_at <= statement_timestamp()
      order by expires_at limit p_max) a
    order by tenant_id, session_id, run_id
  loop
    perform from sessions where tenant_id = due.tenant_id and id = due.session_id
    for no key update skip locked;
    continue when not found;
    update approvals set state = 'expired', decided_at = clock_timestamp()
    where run_id = due.run_id and state = 'pending' and expires_at <= statement_timestamp();
    continue when not found;  -- another sweep was here
    mine := resume_run(due.run_id);
    if mine.state = 'queued' and mine.due_at is not null then
      requests := requests || request_json(mine);
    end if;
  end loop;
  return array_to_json(requests);
end
$$;

-- If everything is decided already, or the run is interrupted, the run continues at once in its next turn, which
-- waits for a claim.
create function suspend_run(
  p_run text, p_attempt integer, p_answer json, p_input_tokens bigint, p_output_tokens bigint
) returns json language plpgsql as $$
declare
  mine runs := lock_attempt(p_run, p_attempt);
begin
  if mine.state = 'running' then
    perform store_answer(mine, p_answer, p_input_tokens + p_output_tokens);
    if exists (select from approvals where run_id = mine.id and state = 'pending') then
      update runs set state = 'suspended', due_at = null, updated_at = clock_timestamp(),
        input_tokens = p_input_tokens, output_tokens = p_output_tokens
      where id = mine.id;
    else
      -- If this turn has no approvals, the call is a repetition: the first one has continued the run.
      update runs set
        turn = turn + exists (select from approvals where run_id = mine.id and turn = mine.turn)::int,
        due_at = coalesce(due_at, clock_timestamp()), updated_at = clock_timestamp(),
        input_tokens = p_input_tokens, output_tokens = p_output_tokens
      where id = mine.id;
    end if;
  elsif mine.state not in ('suspended', 'queued') then
    perform refuse('RJ412', 'the run is over');
  end if;
  return coalesce(promote_run(mine.tenant_id, mine.session_id), promote_next(mine.tenant_id));
end
$$;

create function end_run(
  p_run text, p_attempt integer, p_state text, p_answer json, p_error json, p_input_tokens bigint,
  p_output_tokens bigint
) returns json language plpgsql as $$
declare
  mine runs := lock_attempt(p_run, p_attempt);
begin
  if mine.state = 'running' then
    perform store_answer(mine, p_answer, p_input_tokens + p_output_tokens);
    update runs set state = p_state, error = p_error, due_at = null, context = null,
      input_tokens = case when p_answer is null then input_tokens else p_input_tokens end,
      output_tokens = case when p_answer is null then output_tokens else p_output_tokens end,
      ended_at = clock_timestamp(), updated_at = clock_timestamp()
    where id = mine.id;
    update approvals set state = 'cancelled', decided_at = clock_timestamp()
    where run_id = mine.id and state = 'pending';
  elsif mine.state <> p_state then
    perform refuse('RJ412', 'the run is over');
  end if;
  return coalesce(promote_run(mine.tenant_id, mine.session_id), promote_next(mine.tenant_id));
end
$$;

-- Promote runs for which a place became free without a promotion: a limit was raised or removed, or a ready run was
-- deleted. Since it never waits for a session's lock, it may hold several. Returns the requests.
create function promote_waiting(p_max bigint) returns json language plpgsql as $$
declare
  waiting record;
  request json;
  requests json[] := '{}';
begin
  for waiting in
    with held as materialized (select distinct tenant_id from runs where state = 'queued' and not ready),
    with_places as materialized (
      select tenant_id from held
      where (limit_of(tenant_id, 'running_max') > count_ready(tenant_id)) is not false)
    select tenant_id, session_id from with_places join waiting_runs using (tenant_id)
    order by tenant_id, number limit p_max
  loop
    perform from sessions where tenant_id = waiting.tenant_id and id = waiting.session_id
    for no key update skip locked;
    continue when not found;
    request := promote_run(waiting.tenant_id, waiting.session_id);
    if request is not null then
      requests := requests || request;
    end if;
  end loop;
  return array_to_json(requests);
end
$$;

create function interrupt_run(p_tenant text, p_user text, p_session text, p_run text) returns json language plpgsql as $$
declare
  mine runs;
begin
  if not lock_session(p_tenant, p_user, p_session) then
    perform refuse('RJ404', 'there is no such session');
  end if;
  select * into mine from runs
  where tenant_id = p_tenant and session_id = p_session and id = coalesce(p_run,
    (current_run(p_tenant, p_session)).id,
    (select id from runs
     where tenant_id = p_tenant and session_id = p_session and state = 'suspended'
     order by position desc limit 1));
  if not found and p_run is not null then
    perform refuse('RJ404', 'there is no such run in the session');
  elsif mine.ended_at is null and mine.id is not null then
    perform mark_interrupted(mine.id);
    perform promote_run(p_tenant, p_session);
    select * into mine from runs where id = mine.id;
  end if;
  return json_build_object(
    'run', case when mine.id is not null then run_json(mine) end,
    'interrupted', mine.id is not null and mine.ended_at is null);
end
$$;

-- migrate:down

drop function interrupt_run, promote_waiting, end_run, suspend_run, expire_approvals, decide_run, resume_run, request_approvals, claim_run,
  store_answer, lock_attempt;
