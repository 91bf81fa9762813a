-- migrate:up

-- Calls that wait for a person's approval or for the output of a client's tool. An interrupted run has none that is
-- pending.

create function asked_call_json(a approvals, r runs) returns json language sql stable as $$
  select json_build_object('approval', approval_json(a), 'run', run_json(r))
$$;

-- Store the calls of a run that wait for somebody. A request that is stored already stays as people have seen it.
create function request_approvals(
  p_run text, p_attempt integer,
  p_ids text[], p_calls text[], p_tools text[], p_inputs json[], p_expiries timestamptz[],
  p_kinds text[], p_output_schemas json[], p_edit_schemas json[]
) returns void language plpgsql as $$
declare
  mine runs;
begin
  select * into mine from runs where id = p_run and attempt = p_attempt and state = 'running' for no key update;
  if not found then
    perform refuse('RJ412', 'another attempt owns the run');
  end if;
  insert into approvals (
    id, tenant_id, session_id, run_id, turn, call_id, tool, input, expires_at, kind, output_schema, edit_schema,
    state, decided_at)
  select
    q.id, mine.tenant_id, mine.session_id, mine.id, mine.turn, q.call, q.tool, q.input, q.expires_at, q.kind,
    q.output_schema, q.edit_schema,
    case when mine.interrupted_at is null then 'pending' else 'cancelled' end, mine.interrupted_at
  from unnest(
    p_ids, p_calls, p_tools, p_inputs, p_expiries, p_kinds, p_output_schemas, p_edit_schemas) with ordinality
    as q (id, call, tool, input, expires_at, kind, output_schema, edit_schema, number)
  order by q.number
  on conflict (id) do nothing;
end
$$;

-- Decide calls of one run. p_edits: changed arguments, null for none; p_outputs: of a client's tool; p_by: who decides. The
-- same decision again changes nothing.
create function decide_run(
  p_tenant text, p_user text, p_session text, p_ids text[], p_approved boolean[], p_reasons json[],
  p_kinds text[], p_outputs json[], p_edits json[], p_by json
) returns json
language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
  mine runs;
  asked approvals;
  wanted text;
begin
  -- The lock comes before every row that hangs on the session.
  if not lock_session(p_tenant, p_user, p_session) or exists (
    select from unnest(p_ids) as d (id)
    left join approvals a on a.id = d.id and a.tenant_id = p_tenant and a.session_id = p_session
    where a.id is null)
  then
    perform refuse('RJ404', 'there is no such approval in the session');
  elsif exists (
    select from unnest(p_ids, p_kinds) as q (id, kind) join approvals a on a.id = q.id where a.kind <> q.kind)
  then
    perform refuse('RJ400', 'a decision is for a call that needs an approval, an output for a call of a client''s tool');
  elsif (select count(distinct run_id) from approvals where id = any (p_ids)) <> 1 then
    perform refuse('RJ400', 'the decisions are not all of one run');
  end if;
  for n in 1 .. cardinality(p_ids) loop
    wanted := case when p_approved[n] then 'approved' else 'denied' end;
    select * into asked from approvals where id = p_ids[n];
    if asked.state = 'pending' and asked.expires_at <= clock_timestamp() then
      perform refuse('RJ409', 'the approval is expired already');  -- as the next sweep will write down
    elsif asked.state not in ('pending', wanted) then
      perform refuse('RJ409', format('the approval is %s already', asked.state));
    elsif asked.kind = 'tool-output' and asked.answered and (
      asked.output::text is distinct from p_outputs[n]::text or asked.reason::text is distinct from p_reasons[n]::text)
    then
      perform refuse('RJ409', 'the call has another output already');
    elsif p_edits[n] is not null and asked.edit_schema is null then
      perform refuse('RJ400', 'the arguments of this call cannot be changed');
    elsif asked.state = 'pending' then
      update approvals set state = wanted, reason = p_reasons[n], decided_at = clock_timestamp(),
        edited_input = p_edits[n], decided_by = p_by,
        output = p_outputs[n], answered = kind = 'tool-output'
      where id = asked.id;
    elsif p_approved[n] and asked.edited_input::text is distinct from p_edits[n]::text then
      perform refuse('RJ409', 'the approval is decided already, with other arguments');
    end if;
  end loop;
  mine := resume_run(asked.run_id);
  return json_build_object(
    'run', run_json(mine), 'turn', (select max(turn) + 1 from approvals where id = any (p_ids)));
end
$$;

-- Deny approvals that have expired. Skips locked sessions; the next sweep finds them. Since it never waits for a
-- session's lock, it may hold several.
create function expire_approvals(p_max integer) returns json
language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
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

-- The decisions of approvals are the gateways': a runner asks, it cannot answer itself. A role can be kept from a
-- column by a grant (migrations/grants), from a value only by a trigger.
create function refuse_own_decision() returns trigger language plpgsql as $$
begin
  if current_user = 'rejoin_runner' and new.state in ('approved', 'denied') then
    raise insufficient_privilege using message = 'permission denied: a runner decides no approval';
  end if;
  return new;
end
$$;

create trigger own_decision before insert or update of state on approvals
  for each row when (new.state in ('approved', 'denied')) execute function refuse_own_decision();

-- migrate:down

drop trigger own_decision on approvals;
drop function refuse_own_decision, expire_approvals, decide_run, request_approvals, asked_call_json;
