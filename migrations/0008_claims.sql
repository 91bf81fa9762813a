-- migrate:up

-- A runner claims a run: attempt + 1. Only the newest attempt may store anything.

create function approval_json(a approvals) returns json language sql stable as $$
  select json_build_object(
    'question', json_build_object(
      'id', a.id, 'call', a.call_id, 'tool', a.tool, 'input', a.input, 'expires_at', a.expires_at,
      'kind', a.kind, 'output_schema', a.output_schema, 'edit_schema', a.edit_schema),
    'decision', case when a.state in ('approved', 'denied', 'expired') then json_build_object(
      'approval', a.id, 'approved', a.state = 'approved', 'reason', a.reason, 'kind', a.kind,
      'output', a.output, 'input', a.edited_input, 'by', a.decided_by) end,
    'turn', a.turn, 'expired', a.state = 'expired', 'decided_at', a.decided_at)
$$;

-- A part of a history: the messages of a run's session from a position on, before its answer.
create function history_from(p_run text, p_first bigint) returns json language sql stable as $$
  select coalesce(json_agg(m.body order by m.position), '[]')
  from runs r join messages m on m.tenant_id = r.tenant_id and m.session_id = r.session_id
  where r.id = p_run and m.position >= p_first and m.position < r.position and m.body is not null
$$;

-- The position from which on the newest messages before an answer fit, in whole turns: the first one is a user's message. The
-- newest turn is taken however large it is. Null: all fit. No body is read.
create function cut_history(mine runs, p_messages_max bigint, p_bytes_max bigint) returns bigint
language plpgsql as $$
declare
  one record;
  first bigint;
  bytes bigint := 0;
  taken bigint := 0;
begin
  for one in
    select position, coalesce(size_bytes, octet_length(body::text)) as size from messages
    where tenant_id = mine.tenant_id and session_id = mine.session_id and position < mine.position
      and body is not null
    order by position desc
  loop
    bytes := bytes + one.size;
    taken := taken + 1;
    if taken > 1 and (bytes > p_bytes_max or taken > p_messages_max) then
      return coalesce(
        (select min(position) from messages
         where tenant_id = mine.tenant_id and session_id = mine.session_id and role = 'user'
           and position >= first and position < mine.position),
        (select max(position) from messages
         where tenant_id = mine.tenant_id and session_id = mine.session_id and role = 'user'
           and position < first and body is not null),
        mine.position);  -- no message of a user is left
    end if;
    first := one.position;
  end loop;
  return null;
end
$$;

-- store_types.Claim, or null if the request is out of date. `history`: the newest messages that fit; larger ones than
-- p_inline_max are read later, from `history_from` on. `answer` and `approvals` can exist only if an earlier attempt has
-- stored them; an answer also if the run begins with kept steps. `waiting`: the earlier answers whose runs have not ended.
-- Their open questions may still be answered. `steering`: the messages that steer the run, whether its log has them or not.
create function claim_run(
  p_run text, p_turn integer, p_runner text, p_messages_max bigint, p_bytes_max bigint, p_inline_max bigint
) returns json
language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
  mine runs;
  home record;
  cut bigint;
  first bigint;
  bytes bigint;
begin
  update runs set state = 'running', attempt = attempt + 1, runner = p_runner, due_at = null,
    started_at = coalesce(started_at, clock_timestamp()), updated_at = clock_timestamp()
  -- Not `state in ('queued', 'running')`: with it, the planner may look through the index of all busy runs.
  where id = p_run and turn = p_turn and ready and ended_at is null and state <> 'suspended'
  returning * into mine;
  if not found then
    return null;
  end if;
  select context, size_bytes into home from sessions where tenant_id = mine.tenant_id and id = mine.session_id;
  if home.size_bytes > p_bytes_max or mine.position > p_messages_max then  -- else all messages fit
    cut := cut_history(mine, p_messages_max, p_bytes_max);
  end if;
  select min(position), coalesce(sum(coalesce(size_bytes, octet_length(body::text))), 0) into first, bytes from messages
  where tenant_id = mine.tenant_id and session_id = mine.session_id and position < mine.position
    and position >= coalesce(cut, 0) and body is not null;
  return json_build_object(
    'run', run_json(mine),
    'history', case when bytes > p_inline_max then '[]' else (
      select coalesce(json_agg(body order by position), '[]') from messages
      where tenant_id = mine.tenant_id and session_id = mine.session_id and position < mine.position
        and position >= first and body is not null) end,
    'history_cut', cut is not null,
    'history_bytes', bytes,
    'history_from', case when bytes > p_inline_max then first end,
    'answer', case when mine.attempt > 1 or mine.turn > 0 then (
      select body from messages
      where tenant_id = mine.tenant_id and session_id = mine.session_id and id = mine.answer_id
        and run_id = mine.id and role = 'assistant') end,
    'approvals', case when mine.attempt > 1 then (
      select coalesce(json_agg(approval_json(a) order by number), '[]') from approvals a
      where run_id = mine.id) else '[]' end,
    'waiting', (
      select coalesce(json_agg(answer_id order by position), '[]') from runs
      where tenant_id = mine.tenant_id and session_id = mine.session_id and position < mine.position
        and ended_at is null),
    'context', bytes_json(coalesce(mine.context, home.context)),
    'steering', (
      select coalesce(json_agg(steering order by position), '[]') from runs
      where steers = p_run and interrupted_at is null),
    'request_tools', coalesce(mine.request_tools, '[]'),
    'request_options', coalesce(mine.request_options, '{}'));
end
$$;

-- A claim takes over a run whose attempt was not released. A run that waits for a claim has a due time.
create function record_loss() returns trigger language plpgsql as $$
begin
  insert into run_losses (run_id, attempt) values (old.id, old.attempt) on conflict do nothing;
  return null;
end
$$;

create trigger run_loss after update of attempt on runs for each row
when (old.state = 'running' and old.due_at is null and old.attempt > old.released_attempt
  and new.attempt > old.attempt)
execute function record_loss();

-- migrate:down

drop trigger run_loss on runs;
drop function record_loss, claim_run, cut_history, history_from, approval_json;
