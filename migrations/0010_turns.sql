-- migrate:up

-- A run is suspended, resumed or ended. The lock order of 0003_sessions applies.

-- Lock the session of a run, then the run. An attempt that is not the newest is fenced.
create function lock_attempt(p_run text, p_attempt integer) returns runs language plpgsql as $$
declare
  held runs;
begin
  perform from runs r join sessions s on s.tenant_id = r.tenant_id and s.id = r.session_id
  where r.id = p_run for no key update of s;
  select * into held from runs where id = p_run for no key update;
  if not found or held.attempt <> p_attempt then
    perform refuse('RJ412', 'another attempt owns the run');
  end if;
  return held;
end
$$;

-- Store the answer of a running run of a locked session. The answer's row of an interrupted run may be deleted, and another
-- message may have its id.
create function store_answer(r runs, p_answer json) returns void language plpgsql as $$
declare
  added bigint;
begin
  if p_answer is not null then
    with old as (
      select size_bytes from messages
      where tenant_id = r.tenant_id and session_id = r.session_id and id = r.answer_id)
    update messages set body = p_answer
    where tenant_id = r.tenant_id and session_id = r.session_id and id = r.answer_id and run_id = r.id
      and role = 'assistant'
    returning size_bytes - coalesce((select size_bytes from old), 0) into added;
  end if;
  update sessions set updated_at = clock_timestamp(), size_bytes = greatest(size_bytes + coalesce(added, 0), 0)
  where tenant_id = r.tenant_id and id = r.session_id;
end
$$;

-- If everything is decided already, or the run is interrupted, the run continues at once in its next turn, which waits for a
-- claim. p_logged: the steering messages that the log has; p_cost, p_models: as runs.cost_nano_usd and runs.model_usage. The
-- rows of usage, which runs share, are written last: others wait for them. Returns the request of the run that may execute
-- now.
create function suspend_run(
  p_run text, p_attempt integer, p_answer json, p_input_tokens bigint, p_output_tokens bigint, p_logged text[],
  p_cost bigint, p_models jsonb
) returns json
language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
  mine runs := lock_attempt(p_run, p_attempt);
  waits boolean;
  is_steered boolean;
begin
  if mine.state = 'running' then
    is_steered := record_steering(p_run, p_logged);
    perform store_answer(mine, p_answer);
    waits := exists (select from approvals where run_id = mine.id and decided_at is null);
    update runs set
      state = case when waits then 'suspended' else state end,
      -- If this turn has no approvals, the call is a repetition: the first one has continued the run.
      turn = turn + (not waits and exists (select from approvals where run_id = mine.id and turn = mine.turn))::int,
      due_at = case when not waits then coalesce(due_at, clock_timestamp()) end,
      updated_at = clock_timestamp(), input_tokens = p_input_tokens, output_tokens = p_output_tokens,
      cost_nano_usd = case when p_models is null then cost_nano_usd else p_cost end,
      model_usage = coalesce(p_models, model_usage)
    where id = mine.id;
    if waits and is_steered then
      perform settle_steering(mine);
    end if;
    perform count_usage(mine, p_input_tokens + p_output_tokens, p_cost, p_models);
  elsif mine.state not in ('suspended', 'queued') then
    perform refuse('RJ412', 'the run is over');
  end if;
  return promote_freed(mine.tenant_id, mine.session_id);
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

-- As suspend_run. Without an answer, what was stored last stays. A failure without a code is the runner's own.
create function end_run(
  p_run text, p_attempt integer, p_state text, p_answer json, p_error json, p_input_tokens bigint,
  p_output_tokens bigint, p_logged text[] default '{}', p_cost bigint default null, p_models jsonb default null,
  p_error_code text default null
) returns json
language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
  mine runs := lock_attempt(p_run, p_attempt);
  is_steered boolean;
begin
  if mine.state = 'running' then
    is_steered := record_steering(p_run, p_logged);
    perform store_answer(mine, p_answer);
    update runs set state = p_state, error = p_error, due_at = null,
      error_code = case p_state when 'failed' then coalesce(p_error_code, 'internal_error') end,
      context = null, request_tools = null, request_options = null,
      input_tokens = case when p_answer is null then input_tokens else p_input_tokens end,
      output_tokens = case when p_answer is null then output_tokens else p_output_tokens end,
      cost_nano_usd = case when p_models is null then cost_nano_usd else p_cost end,
      model_usage = coalesce(p_models, model_usage),
      ended_at = clock_timestamp(), updated_at = clock_timestamp()
    where id = mine.id;
    if is_steered then
      perform settle_steering(mine);
    end if;
    -- Not `state = 'pending'`: with it, the planner may look through the index of all that are pending.
    update approvals set state = 'cancelled', decided_at = clock_timestamp()
    where run_id = mine.id and decided_at is null;
    perform count_usage(mine, p_input_tokens + p_output_tokens, p_cost, p_models);
  elsif mine.state <> p_state then
    perform refuse('RJ412', 'the run is over');
  end if;
  return promote_freed(mine.tenant_id, mine.session_id);
end
$$;

-- migrate:down

drop function end_run, resume_run, suspend_run, store_answer, lock_attempt;
