-- migrate:up

-- Calls that wait for a person's approval or for the output of a client's tool. An interrupted run has none that is
-- pending.

create function asked_call_json(a approvals, r runs) returns json language sql stable as $$
  select json_build_object('approval', approval_json(a), 'run', run_json(r))
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

create function request_approvals(
  p_run text, p_attempt integer,
  p_ids text[], p_calls text[], p_tools text[], p_inputs json[], p_expiries timestamptz[],
  p_kinds text[], p_output_schemas json[]
) returns void language plpgsql as $$
begin
  perform request_approvals(p_run, p_attempt, p_ids, p_calls, p_tools, p_inputs, p_expiries);
  update approvals a set kind = q.kind, output_schema = q.output_schema
  from unnest(p_ids, p_kinds, p_output_schemas) as q (id, kind, output_schema)
  where a.id = q.id and q.kind <> 'approval' and a.state in ('pending', 'cancelled');
end
$$;

create function request_approvals(
  p_run text, p_attempt integer,
  p_ids text[], p_calls text[], p_tools text[], p_inputs json[], p_expiries timestamptz[],
  p_kinds text[], p_output_schemas json[], p_edit_schemas json[]
) returns void language plpgsql as $$
declare
  -- A request that is stored already stays as people have seen it.
  fresh text[] := array(select id from unnest(p_ids) as q (id) except select id from approvals where id = any (p_ids));
begin
  perform request_approvals(
    p_run, p_attempt, p_ids, p_calls, p_tools, p_inputs, p_expiries, p_kinds, p_output_schemas);
  update approvals a set edit_schema = q.edit_schema
  from unnest(p_ids, p_edit_schemas) as q (id, edit_schema)
  where a.id = q.id and q.edit_schema is not null and a.id = any (fresh);
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

create function decide_run(
  p_tenant text, p_user text, p_session text, p_ids text[], p_approved boolean[], p_reasons json[],
  p_kinds text[], p_outputs json[]
) returns json language plpgsql as $$
declare
  decided json;
begin
  if exists (
    select from unnest(p_ids, p_kinds) as q (id, kind)
    join approvals a on a.id = q.id and a.tenant_id = p_tenant and a.session_id = p_session
    where a.kind <> q.kind)
  then
    perform refuse('RJ400', 'a decision is for a call that needs an approval, an output for a call of a client''s tool');
  end if;
  -- Refuses what is unknown, expired or decided otherwise, and locks the session.
  decided := decide_run(p_tenant, p_user, p_session, p_ids, p_approved, p_reasons);
  if exists (
    select from unnest(p_ids, p_reasons, p_outputs) as q (id, reason, output)
    join approvals a on a.id = q.id
    where a.kind = 'tool-output' and a.answered
      and (a.output::text is distinct from q.output::text or a.reason::text is distinct from q.reason::text))
  then
    perform refuse('RJ409', 'the call has another output already');
  end if;
  update approvals a set output = q.output, answered = true
  from unnest(p_ids, p_outputs) as q (id, output)
  where a.id = q.id and a.kind = 'tool-output' and not a.answered;
  return decided;
end
$$;

-- p_edits: changed arguments, null for none.
create function decide_run(
  p_tenant text, p_user text, p_session text, p_ids text[], p_approved boolean[], p_reasons json[],
  p_kinds text[], p_outputs json[], p_edits json[], p_by json
) returns json language plpgsql as $$
declare
  decided json;
begin
  -- The lock comes before every row that hangs on the session.
  perform lock_session(p_tenant, p_user, p_session);
  -- Before the decision, so that the audit log knows of the change.
  update approvals a set edited_input = q.edit, decided_by = p_by
  from unnest(p_ids, p_edits) as q (id, edit)
  where a.id = q.id and a.tenant_id = p_tenant and a.session_id = p_session and a.state = 'pending';
  -- Refuses what is unknown, expired or decided otherwise.
  decided := decide_run(p_tenant, p_user, p_session, p_ids, p_approved, p_reasons, p_kinds, p_outputs);
  if exists (
    select from unnest(p_ids, p_edits) as q (id, edit) join approvals a on a.id = q.id
    where q.edit is not null and a.edit_schema is null)
  then
    perform refuse('RJ400', 'the arguments of this call cannot be changed');
  elsif exists (
    select from unnest(p_ids, p_approved, p_edits) as q (id, approved, edit) join approvals a on a.id = q.id
    where q.approved and a.edited_input::text is distinct from q.edit::text)
  then
    perform refuse('RJ409', 'the approval is decided already, with other arguments');
  end if;
  return decided;
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
drop function refuse_own_decision, expire_approvals, decide_run(text, text, text, text[], boolean[], json[], text[],
  json[], json[], json), decide_run(text, text, text, text[], boolean[], json[], text[], json[]), decide_run(text,
  text, text, text[], boolean[], json[]), request_approvals(text, integer, text[], text[], text[], json[],
  timestamptz[], text[], json[], json[]), request_approvals(text, integer, text[], text[], text[], json[],
  timestamptz[], text[], json[]), request_approvals(text, integer, text[], text[], text[], json[], timestamptz[]),
  asked_call_json;
