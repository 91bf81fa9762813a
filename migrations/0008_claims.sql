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

-- `waiting`: the earlier answers whose runs have not ended. Their open questions may still be answered.
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
    'waiting', (
      select coalesce(json_agg(answer_id order by position), '[]') from runs
      where tenant_id = mine.tenant_id and session_id = mine.session_id and position < mine.position
        and ended_at is null),
    'context', bytes_json(coalesce(mine.context, (
      select context from sessions where tenant_id = mine.tenant_id and id = mine.session_id))));
end
$$;

create function history_from(p_run text, p_first bigint) returns json language sql stable as $$
  select coalesce(json_agg(m.body order by m.position), '[]')
  from runs r join messages m on m.tenant_id = r.tenant_id and m.session_id = r.session_id
  where r.id = p_run and m.position >= p_first and m.position < r.position and m.body is not null
$$;

-- `claim_run`, with the newest messages that fit: whole turns, so that the first one is a user's message. At least
-- one message is taken. The claim, these messages, the position of the first of them, their size, and whether older
-- ones were left out, of which no body is read. Larger messages than p_inline_max are read later.
create function claim_recent(
  p_run text, p_turn integer, p_runner text, p_messages_max bigint, p_bytes_max bigint, p_inline_max bigint
) returns json language plpgsql as $$
declare
  claimed json := claim_run(p_run, p_turn, p_runner, 0);
  mine runs;
  one record;
  first bigint;
  bytes bigint := 0;
  fitting bigint := 0;
  taken bigint := 0;
  cut boolean := false;
begin
  if claimed is null then
    return null;
  end if;
  select * into mine from runs where id = p_run;
  for one in
    select position, coalesce(size_bytes, octet_length(body::text)) as size from messages
    where tenant_id = mine.tenant_id and session_id = mine.session_id and position < mine.position
      and body is not null
    order by position desc
  loop
    bytes := bytes + one.size;
    taken := taken + 1;
    cut := taken > 1 and (coalesce(bytes > p_bytes_max, false) or coalesce(taken > p_messages_max, false));
    exit when cut;
    first := one.position;
    fitting := bytes;
  end loop;
  if cut then
    select min(position) into first from messages
    where tenant_id = mine.tenant_id and session_id = mine.session_id and role = 'user'
      and position >= first and position < mine.position;
    select sum(coalesce(size_bytes, octet_length(body::text))) into fitting from messages
    where tenant_id = mine.tenant_id and session_id = mine.session_id and position >= first
      and position < mine.position and body is not null;
  end if;
  return json_build_array(
    claimed,
    case when fitting <= p_inline_max then history_from(mine.id, first) else '[]' end,
    coalesce(first, 0), fitting, cut);
end
$$;

-- `claim_recent`, and the messages that steer the run, whether its log has them or not.
create function claim_steered(
  p_run text, p_turn integer, p_runner text, p_messages_max bigint, p_bytes_max bigint, p_inline_max bigint
) returns json language plpgsql as $$
declare
  claimed json := claim_recent(p_run, p_turn, p_runner, p_messages_max, p_bytes_max, p_inline_max);
begin
  return case when claimed is not null then json_build_array(claimed, (
    select coalesce(json_agg(steering order by position), '[]') from runs
    where steers = p_run and interrupted_at is null)) end;
end
$$;

-- `claim_steered`, and the tools of the run's request.
create function claim_with_tools(
  p_run text, p_turn integer, p_runner text, p_messages_max bigint, p_bytes_max bigint, p_inline_max bigint
) returns json language plpgsql as $$
declare
  claimed json := claim_steered(p_run, p_turn, p_runner, p_messages_max, p_bytes_max, p_inline_max);
begin
  return case when claimed is not null then json_build_array(claimed, (
    select coalesce(request_tools, '[]') from runs where id = p_run)) end;
end
$$;

-- `claim_with_tools`, and the options of the run's request.
create function claim_with_options(
  p_run text, p_turn integer, p_runner text, p_messages_max bigint, p_bytes_max bigint, p_inline_max bigint
) returns json language plpgsql as $$
declare
  claimed json := claim_with_tools(p_run, p_turn, p_runner, p_messages_max, p_bytes_max, p_inline_max);
begin
  return case when claimed is not null then json_build_array(claimed, (
    select coalesce(request_options, '{}') from runs where id = p_run)) end;
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
drop function record_loss, claim_with_options, claim_with_tools, claim_steered, claim_recent, history_from, claim_run,
  approval_json;
