-- migrate:up

-- The position in a trace (W3C `traceparent`) at which a run was admitted: every attempt at every turn continues it.
alter table runs add column trace text;

create or replace function request_json(r runs) returns json language sql stable as $$
  select json_build_object('agent', r.agent, 'run', r.id, 'turn', r.turn, 'trace', r.trace)
$$;

create or replace function run_json(r runs) returns json language sql stable as $$
  select json_build_object(
    'id', r.id, 'tenant', r.tenant_id, 'session', r.session_id, 'agent', r.agent, 'answer', r.answer_id,
    'state', r.state, 'ready', r.ready, 'turn', r.turn, 'attempt', r.attempt, 'error', r.error,
    'interrupted', r.interrupted_at is not null, 'user', r.user_id,
    'user_message', r.user_message_id, 'operation_set', r.operation_set, 'steers', r.steers, 'trace', r.trace,
    'usage', json_build_object(
      'input_tokens', r.input_tokens, 'output_tokens', r.output_tokens, 'cost_nano_usd', r.cost_nano_usd))
$$;

-- An admission, with the trace of the run if it is new.
create function with_trace(p_admitted json, p_trace text) returns json language plpgsql as $$
begin
  if p_trace is not null and (p_admitted ->> 'created')::boolean then
    update runs set trace = p_trace where id = p_admitted -> 'run' ->> 'id';
  end if;
  return p_admitted;
end
$$;

-- migrate:down

drop function with_trace;

create or replace function run_json(r runs) returns json language sql stable as $$
  select json_build_object(
    'id', r.id, 'tenant', r.tenant_id, 'session', r.session_id, 'agent', r.agent, 'answer', r.answer_id,
    'state', r.state, 'ready', r.ready, 'turn', r.turn, 'attempt', r.attempt, 'error', r.error,
    'interrupted', r.interrupted_at is not null, 'user', r.user_id,
    'user_message', r.user_message_id, 'operation_set', r.operation_set, 'steers', r.steers,
    'usage', json_build_object(
      'input_tokens', r.input_tokens, 'output_tokens', r.output_tokens, 'cost_nano_usd', r.cost_nano_usd))
$$;

create or replace function request_json(r runs) returns json language sql stable as $$
  select json_build_object('agent', r.agent, 'run', r.id, 'turn', r.turn)
$$;

alter table runs drop column trace;
