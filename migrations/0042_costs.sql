-- migrate:up

-- What runs cost, in billionths of a US dollar. Runners know prices, the database adds up: with the run, with the tenant's
-- day for its limit (`spending`), and with day, agent and model for reports (`usage_days`).

alter table runs
  -- As input_tokens: in the answer when it was last stored. Null: no model that answered has a price.
  add column cost_nano_usd bigint,
  -- By model [input tokens, output tokens, cost or null], as counted in usage_days.
  add column model_usage jsonb;

alter table spending add column nano_usd bigint not null default 0;

-- What runs have used; deleting sessions does not reduce it. Several rows, so that runs that end at the same time do not
-- wait for each other.
create table usage_days (
  tenant_id text not null references tenants on delete cascade,
  day date not null,
  agent text not null,
  model text not null,  -- empty: the model has not named itself
  shard integer not null,
  input_tokens bigint not null,
  output_tokens bigint not null,
  unpriced_tokens bigint not null,
  cost_nano_usd bigint not null,
  primary key (tenant_id, day, agent, model, shard)
);

create index usage_days_by_day on usage_days (day);

create or replace function run_json(r runs) returns json language sql stable as $$
  select json_build_object(
    'id', r.id, 'tenant', r.tenant_id, 'session', r.session_id, 'agent', r.agent, 'answer', r.answer_id,
    'state', r.state, 'ready', r.ready, 'turn', r.turn, 'attempt', r.attempt, 'error', r.error,
    'interrupted', r.interrupted_at is not null, 'user', r.user_id,
    'user_message', r.user_message_id, 'operation_set', r.operation_set, 'steers', r.steers,
    'usage', json_build_object(
      'input_tokens', r.input_tokens, 'output_tokens', r.output_tokens, 'cost_nano_usd', r.cost_nano_usd))
$$;

create or replace function webhook_payload(r runs, p_event text) returns json language sql stable as $$
  select json_build_object(
    'type', p_event, 'timestamp', clock_timestamp(),
    'data', json_build_object(
      'run', r.id, 'session', r.session_id, 'agent', r.agent, 'user', r.user_id, 'state', r.state, 'turn', r.turn,
      'message', r.answer_id,
      'usage', json_build_object(
        'inputTokens', r.input_tokens, 'outputTokens', r.output_tokens,
        'costUsd', trim_scale(r.cost_nano_usd / 1e9)),
      'waitingFor', case when r.state = 'suspended' then (
        select coalesce(json_agg(json_build_object(
          'id', id, 'kind', kind, 'toolCallId', call_id, 'toolName', tool, 'expiresAt', expires_at) order by number), '[]')
        from (
          select * from approvals where run_id = r.id and state = 'pending' order by number limit 100) a) end))
$$;

-- As in 0004. The money of another day counts no more, either.
create or replace function store_answer(r runs, p_answer json, p_tokens bigint) returns void language plpgsql as $$
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

create function spend(r runs, p_tokens bigint, p_nano_usd bigint) returns void language sql as $$
  insert into spending (tenant_id, shard, day, tokens, nano_usd)
  values (
    r.tenant_id, hashtext(r.session_id) & 7, (clock_timestamp() at time zone 'utc')::date, p_tokens, p_nano_usd)
  on conflict (tenant_id, shard) do update set
    tokens = excluded.tokens + case when spending.day = excluded.day then spending.tokens else 0 end,
    nano_usd = excluded.nano_usd + case when spending.day = excluded.day then spending.nano_usd else 0 end,
    day = excluded.day
$$;

-- Count what a running run has used since it was last stored. p_models: as runs.model_usage.
create function count_usage(p_run text, p_attempt integer, p_cost bigint, p_models jsonb) returns void
language plpgsql as $$
declare
  mine runs := lock_attempt(p_run, p_attempt);
begin
  if mine.state <> 'running' or p_models is null then
    return;
  end if;
  insert into usage_days (
    tenant_id, day, agent, model, shard, input_tokens, output_tokens, unpriced_tokens, cost_nano_usd)
  select mine.tenant_id, (clock_timestamp() at time zone 'utc')::date, mine.agent, model, hashtext(mine.session_id) & 7,
    tokens_in, tokens_out, case when cost is null then tokens_in + tokens_out else 0 end, coalesce(cost, 0)
  from (
    select key as model,
      greatest(0, (value ->> 0)::bigint - coalesce((mine.model_usage -> key ->> 0)::bigint, 0)) as tokens_in,
      greatest(0, (value ->> 1)::bigint - coalesce((mine.model_usage -> key ->> 1)::bigint, 0)) as tokens_out,
      case when value ->> 2 is not null then
        greatest(0, (value ->> 2)::bigint - coalesce((mine.model_usage -> key ->> 2)::bigint, 0)) end as cost
    from jsonb_each(p_models)) used
  where tokens_in > 0 or tokens_out > 0 or cost > 0
  order by model  -- so that two runs never wait for each other
  on conflict (tenant_id, day, agent, model, shard) do update set
    input_tokens = usage_days.input_tokens + excluded.input_tokens,
    output_tokens = usage_days.output_tokens + excluded.output_tokens,
    unpriced_tokens = usage_days.unpriced_tokens + excluded.unpriced_tokens,
    cost_nano_usd = usage_days.cost_nano_usd + excluded.cost_nano_usd;
  if p_cost > coalesce(mine.cost_nano_usd, 0) then
    perform spend(mine, 0, p_cost - coalesce(mine.cost_nano_usd, 0));
  end if;
  update runs set cost_nano_usd = p_cost, model_usage = p_models where id = mine.id;
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

create function end_run(
  p_run text, p_attempt integer, p_state text, p_answer json, p_error json, p_input_tokens bigint,
  p_output_tokens bigint, p_logged text[], p_cost bigint, p_models jsonb
) returns json language plpgsql as $$
begin
  perform count_usage(p_run, p_attempt, p_cost, p_models);
  return end_run(p_run, p_attempt, p_state, p_answer, p_error, p_input_tokens, p_output_tokens, p_logged);
end
$$;

create function money_spent_today(p_tenant text) returns bigint language sql stable as $$
  select coalesce(sum(nano_usd), 0)::bigint from spending
  where tenant_id = p_tenant and day = (statement_timestamp() at time zone 'utc')::date
$$;

-- As in 0032, with the limit of money.
create or replace function check_limits(p_tenant text, p_user text) returns void language plpgsql as $$
declare
  queued_max bigint := limit_of(p_tenant, 'queued_max');
  user_queued_max bigint := limit_of(p_tenant, 'user_queued_max');
  tokens_max bigint := limit_of(p_tenant, 'tokens_per_day');
  money_max bigint := limit_of(p_tenant, 'nano_usd_per_day');
  today timestamp := statement_timestamp() at time zone 'utc';
  until_midnight integer := ceil(extract(epoch from date_trunc('day', today) + interval '1 day' - today));
begin
  if queued_max is not null and queued_max <= (
    select count(*) from (
      select from runs where tenant_id = p_tenant and state = 'queued' and not taken limit queued_max) queued)
  then
    perform refuse('RJ429', format('the tenant has too many runs queued: at most %s', queued_max), 5);
  elsif p_user is not null and user_queued_max is not null and user_queued_max <= (
    select count(*) from (
      select from runs where tenant_id = p_tenant and user_id = p_user and state = 'queued' and not taken
      limit user_queued_max) queued)
  then
    perform refuse('RJ429', format('you have too many runs queued: at most %s', user_queued_max), 5);
  elsif tokens_max is not null and tokens_max <= spent_today(p_tenant) then
    perform refuse('RJ429', format('the tenant has used up its %s tokens of the day', tokens_max), until_midnight);
  elsif money_max is not null and money_max <= money_spent_today(p_tenant) then
    perform refuse(
      'RJ429', format('the tenant has used up its %s USD of the day', trim_scale(money_max / 1e9)), until_midnight);
  end if;
end
$$;

-- migrate:down

create or replace function check_limits(p_tenant text, p_user text) returns void language plpgsql as $$
declare
  queued_max bigint := limit_of(p_tenant, 'queued_max');
  user_queued_max bigint := limit_of(p_tenant, 'user_queued_max');
  tokens_max bigint := limit_of(p_tenant, 'tokens_per_day');
  today timestamp := statement_timestamp() at time zone 'utc';
begin
  if queued_max is not null and queued_max <= (
    select count(*) from (
      select from runs where tenant_id = p_tenant and state = 'queued' and not taken limit queued_max) queued)
  then
    perform refuse('RJ429', format('the tenant has too many runs queued: at most %s', queued_max), 5);
  elsif p_user is not null and user_queued_max is not null and user_queued_max <= (
    select count(*) from (
      select from runs where tenant_id = p_tenant and user_id = p_user and state = 'queued' and not taken
      limit user_queued_max) queued)
  then
    perform refuse('RJ429', format('you have too many runs queued: at most %s', user_queued_max), 5);
  elsif tokens_max is not null and tokens_max <= spent_today(p_tenant) then
    perform refuse(
      'RJ429', format('the tenant has used up its %s tokens of the day', tokens_max),
      ceil(extract(epoch from date_trunc('day', today) + interval '1 day' - today))::integer);
  end if;
end
$$;

drop function money_spent_today(text);
drop function end_run(text, integer, text, json, json, bigint, bigint, text[], bigint, jsonb);
drop function suspend_run(text, integer, json, bigint, bigint, text[], bigint, jsonb);
drop function count_usage(text, integer, bigint, jsonb);

create or replace function store_answer(r runs, p_answer json, p_tokens bigint) returns void language plpgsql as $$
begin
  update messages set body = p_answer
  where tenant_id = r.tenant_id and session_id = r.session_id and id = r.answer_id and run_id = r.id
    and role = 'assistant' and p_answer is not null;
  if p_tokens > r.input_tokens + r.output_tokens then
    insert into spending (tenant_id, shard, day, tokens)
    values (
      r.tenant_id, hashtext(r.session_id) & 7, (clock_timestamp() at time zone 'utc')::date,
      p_tokens - r.input_tokens - r.output_tokens)
    on conflict (tenant_id, shard) do update set
      tokens = excluded.tokens + case when spending.day = excluded.day then spending.tokens else 0 end,
      day = excluded.day;
  end if;
  update sessions set updated_at = clock_timestamp() where tenant_id = r.tenant_id and id = r.session_id;
end
$$;

create or replace function webhook_payload(r runs, p_event text) returns json language sql stable as $$
  select json_build_object(
    'type', p_event, 'timestamp', clock_timestamp(),
    'data', json_build_object(
      'run', r.id, 'session', r.session_id, 'agent', r.agent, 'user', r.user_id, 'state', r.state, 'turn', r.turn,
      'message', r.answer_id,
      'usage', json_build_object('inputTokens', r.input_tokens, 'outputTokens', r.output_tokens),
      'waitingFor', case when r.state = 'suspended' then (
        select coalesce(json_agg(json_build_object(
          'id', id, 'kind', kind, 'toolCallId', call_id, 'toolName', tool, 'expiresAt', expires_at) order by number), '[]')
        from (
          select * from approvals where run_id = r.id and state = 'pending' order by number limit 100) a) end))
$$;

create or replace function run_json(r runs) returns json language sql stable as $$
  select json_build_object(
    'id', r.id, 'tenant', r.tenant_id, 'session', r.session_id, 'agent', r.agent, 'answer', r.answer_id,
    'state', r.state, 'ready', r.ready, 'turn', r.turn, 'attempt', r.attempt, 'error', r.error,
    'interrupted', r.interrupted_at is not null, 'user', r.user_id,
    'user_message', r.user_message_id, 'operation_set', r.operation_set, 'steers', r.steers,
    'usage', json_build_object('input_tokens', r.input_tokens, 'output_tokens', r.output_tokens))
$$;

drop table usage_days;
alter table spending drop column nano_usd;
alter table runs drop column model_usage, drop column cost_nano_usd;
drop function spend(runs, bigint, bigint);
