-- migrate:up

-- Which operations the streams of a run have: those of the API that started it (record.OperationSet). A client
-- that counts events continues on any route, with the count of what the first response sent.
alter table runs add column operation_set text not null default 'none'
  check (operation_set in ('none', 'lifecycle', 'progress'));

create or replace function run_json(r runs) returns json language sql stable as $$
  select json_build_object(
    'id', r.id, 'tenant', r.tenant_id, 'session', r.session_id, 'agent', r.agent, 'answer', r.answer_id,
    'state', r.state, 'ready', r.ready, 'turn', r.turn, 'attempt', r.attempt, 'error', r.error,
    'interrupted', r.interrupted_at is not null, 'user', r.user_id,
    'user_message', r.user_message_id, 'operation_set', r.operation_set,
    'usage', json_build_object('input_tokens', r.input_tokens, 'output_tokens', r.output_tokens))
$$;

-- The result of an admission, after the new run has got its operations.
create function with_operation_set(p_admitted json, p_operation_set text) returns json language plpgsql as $$
declare
  made runs;
begin
  if p_operation_set = 'none' or not (p_admitted ->> 'created')::boolean then
    return p_admitted;
  end if;
  update runs set operation_set = p_operation_set where id = p_admitted -> 'run' ->> 'id' returning * into made;
  return json_build_object(
    'run', run_json(made), 'created', true, 'interrupted', p_admitted -> 'interrupted');
end
$$;

-- Keep a stop whose message may come within seconds. A stop that names no message may mean none: it is kept for
-- a shorter time. The same stop again is the same row, and a tenant has at most a thousand. They are counted
-- without a lock, so a burst may exceed that slightly.
create or replace function store_early_stop(p_tenant text, p_user text, p_session text, p_message text) returns void
language plpgsql as $$
declare
  until timestamptz := clock_timestamp()
    + case when p_message is null then interval '3 seconds' else interval '10 seconds' end;
begin
  delete from early_stops where number in (
    select number from early_stops where expires_at <= clock_timestamp()
    order by expires_at limit 100 for update skip locked);
  update early_stops set expires_at = until
  where tenant_id = p_tenant and session_id = p_session
    and user_id is not distinct from p_user and message_id is not distinct from p_message;
  if found then
    return;
  end if;
  if (select count(*) from early_stops where tenant_id = p_tenant and expires_at > clock_timestamp()) >= 1000 then
    perform refuse('RJ429', 'the tenant has too many stops that wait for their messages', 10);
  end if;
  insert into tenants (id) values (p_tenant) on conflict do nothing;
  insert into early_stops (tenant_id, session_id, user_id, message_id, expires_at)
  values (p_tenant, p_session, p_user, p_message, until);
end
$$;

-- migrate:down

create or replace function store_early_stop(p_tenant text, p_user text, p_session text, p_message text) returns void
language plpgsql as $$
begin
  delete from early_stops where number in (
    select number from early_stops where expires_at <= clock_timestamp()
    order by expires_at limit 100 for update skip locked);
  insert into tenants (id) values (p_tenant) on conflict do nothing;
  insert into early_stops (tenant_id, session_id, user_id, message_id, expires_at)
  values (
    p_tenant, p_session, p_user, p_message,
    clock_timestamp() + case when p_message is null then interval '3 seconds' else interval '10 seconds' end);
end
$$;

drop function with_operation_set;

create or replace function run_json(r runs) returns json language sql stable as $$
  select json_build_object(
    'id', r.id, 'tenant', r.tenant_id, 'session', r.session_id, 'agent', r.agent, 'answer', r.answer_id,
    'state', r.state, 'ready', r.ready, 'turn', r.turn, 'attempt', r.attempt, 'error', r.error,
    'interrupted', r.interrupted_at is not null, 'user', r.user_id,
    'user_message', r.user_message_id,
    'usage', json_build_object('input_tokens', r.input_tokens, 'output_tokens', r.output_tokens))
$$;

alter table runs drop column operation_set;
