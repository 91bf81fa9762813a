-- migrate:up

-- A run is suspended, resumed or ended. The lock order of 0003_sessions applies.

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
    perform spend(r, p_tokens - r.input_tokens - r.output_tokens, 0);
  end if;
  update sessions set updated_at = clock_timestamp() where tenant_id = r.tenant_id and id = r.session_id;
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

create function suspend_run(
  p_run text, p_attempt integer, p_answer json, p_input_tokens bigint, p_output_tokens bigint, p_logged text[]
) returns json language plpgsql as $$
begin
  perform lock_attempt(p_run, p_attempt);
  perform record_steering(p_run, p_logged);
  return suspend_run(p_run, p_attempt, p_answer, p_input_tokens, p_output_tokens);
end
$$;

create function suspend_run(
  p_run text, p_attempt integer, p_answer json, p_input_tokens bigint, p_output_tokens bigint, p_logged text[],
  p_cost bigint, p_models jsonb
) returns json language plpgsql as $$
begin
  perform count_usage(p_run, p_attempt, p_cost, p_models);
  return suspend_run(p_run, p_attempt, p_answer, p_input_tokens, p_output_tokens, p_logged);
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

create function end_run(
  p_run text, p_attempt integer, p_state text, p_answer json, p_error json, p_input_tokens bigint,
  p_output_tokens bigint, p_logged text[]
) returns json language plpgsql as $$
begin
  perform lock_attempt(p_run, p_attempt);
  perform record_steering(p_run, p_logged);
  return end_run(p_run, p_attempt, p_state, p_answer, p_error, p_input_tokens, p_output_tokens);
end
$$;

create function end_run(
  p_run text, p_attempt integer, p_state text, p_answer json, p_error json, p_input_tokens bigint,
  p_output_tokens bigint, p_logged text[], p_cost bigint, p_models jsonb
) returns json language plpgsql as $$
begin
  perform count_usage(p_run, p_attempt, p_cost, p_models);
  return end_run(p_run, p_attempt, p_state, p_answer, p_error, p_input_tokens, p_output_tokens, p_logged);
end
$$;

create function drop_request_tools() returns trigger language plpgsql as $$
begin
  new.request_tools := null;
  return new;
end
$$;

create trigger request_tools before update of ended_at on runs for each row
  when (new.ended_at is not null and new.request_tools is not null)
  execute function drop_request_tools();

create function drop_request_options() returns trigger language plpgsql as $$
begin
  new.request_options := null;
  return new;
end
$$;

create trigger request_options before update of ended_at on runs for each row
  when (new.ended_at is not null and new.request_options is not null)
  execute function drop_request_options();

-- migrate:down

drop trigger request_options on runs;
drop function drop_request_options;
drop trigger request_tools on runs;
drop function drop_request_tools, end_run(text, integer, text, json, json, bigint, bigint, text[], bigint, jsonb),
  end_run(text, integer, text, json, json, bigint, bigint, text[]), end_run(text, integer, text, json, json, bigint,
  bigint), resume_run, suspend_run(text, integer, json, bigint, bigint, text[], bigint, jsonb), suspend_run(text,
  integer, json, bigint, bigint, text[]), suspend_run(text, integer, json, bigint, bigint), store_answer,
  lock_attempt;
