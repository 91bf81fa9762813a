-- migrate:up

-- A call of a tool that the client runs waits like a call that needs an approval: the same row, the same turn. Its
-- answer is an output or, not approved, an error whose text is the reason.
alter table approvals
  add column kind text not null default 'approval' check (kind in ('approval', 'tool-output')),
  -- What the client's output must be, as a JSON schema. Null: anything.
  add column output_schema json,
  add column output json,
  -- Whether the output is stored. It is stored in the transaction of the decision.
  add column answered boolean not null default false;

create or replace function approval_json(a approvals) returns json language sql stable as $$
  select json_build_object(
    'question', json_build_object(
      'id', a.id, 'call', a.call_id, 'tool', a.tool, 'input', a.input, 'expires_at', a.expires_at,
      'kind', a.kind, 'output_schema', a.output_schema),
    'decision', case when a.state in ('approved', 'denied', 'expired') then json_build_object(
      'approval', a.id, 'approved', a.state = 'approved', 'reason', a.reason, 'kind', a.kind,
      'output', a.output) end,
    'turn', a.turn, 'expired', a.state = 'expired')
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

-- migrate:down

drop function decide_run(text, text, text, text[], boolean[], json[], text[], json[]);
drop function request_approvals(text, integer, text[], text[], text[], json[], timestamptz[], text[], json[]);
alter table approvals drop column answered, drop column output, drop column output_schema, drop column kind;
