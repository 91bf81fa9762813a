-- migrate:up

-- A person who approves a call may change its arguments, if its tool allows that. What was shown stays in `input`.
alter table approvals
  -- What changed arguments must be, as a JSON schema. Null: nobody may change them.
  add column edit_schema json,
  -- The changed arguments. Null: the call runs with `input`.
  add column edited_input json,
  -- Who decided: a user, or else a credential. JSON, as all text that comes from outside.
  add column decided_by json;

create or replace function approval_json(a approvals) returns json language sql stable as $$
  select json_build_object(
    'question', json_build_object(
      'id', a.id, 'call', a.call_id, 'tool', a.tool, 'input', a.input, 'expires_at', a.expires_at,
      'kind', a.kind, 'output_schema', a.output_schema, 'edit_schema', a.edit_schema),
    'decision', case when a.state in ('approved', 'denied', 'expired') then json_build_object(
      'approval', a.id, 'approved', a.state = 'approved', 'reason', a.reason, 'kind', a.kind,
      'output', a.output, 'input', a.edited_input, 'by', a.decided_by) end,
    'turn', a.turn, 'expired', a.state = 'expired', 'decided_at', a.decided_at)
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

create or replace function audit_decision() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  -- The output of a client's tool is no decision (0019_client_tools.sql).
  if new.kind = 'tool-output' then
    return null;
  end if;
  perform record_audit(
    new.tenant_id, 'approval.' || new.state, new.id,
    json_build_object(
      'session', new.session_id, 'run', new.run_id, 'tool', left(new.tool, 300),
      'edited', new.edited_input is not null));
  return null;
end
$$;

-- migrate:down

create or replace function audit_decision() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  if new.kind = 'tool-output' then
    return null;
  end if;
  perform record_audit(
    new.tenant_id, 'approval.' || new.state, new.id,
    json_build_object('session', new.session_id, 'run', new.run_id, 'tool', left(new.tool, 300)));
  return null;
end
$$;
drop function decide_run(text, text, text, text[], boolean[], json[], text[], json[], json[], json);
drop function request_approvals(text, integer, text[], text[], text[], json[], timestamptz[], text[], json[], json[]);
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
alter table approvals drop column decided_by, drop column edited_input, drop column edit_schema;
