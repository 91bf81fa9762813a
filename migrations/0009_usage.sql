-- migrate:up

-- What runs cost, in tokens and billionths of a US dollar. Runners know prices, the database adds up: with the run, with
-- the tenant's day for its limits (`spending`), and with day, agent and model for reports (`usage_days`). Deleting sessions
-- reduces none of it. Both have several rows for what is counted, so that runs that end at the same time do not wait for
-- each other.

create table spending (
  tenant_id text not null references tenants on delete cascade,
  shard integer not null,
  day date not null,
  tokens bigint not null,
  nano_usd bigint not null default 0,
  primary key (tenant_id, shard)
);

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

-- Count what a running run has used since it was last stored. p_tokens: of its whole answer; p_models: as runs.model_usage,
-- null if nothing was stored.
create function count_usage(mine runs, p_tokens bigint, p_cost bigint, p_models jsonb) returns void
language plpgsql as $$
declare
  new_tokens bigint := greatest(0, p_tokens - mine.input_tokens - mine.output_tokens);
  new_cost bigint := greatest(0, p_cost - coalesce(mine.cost_nano_usd, 0));
begin
  if p_models <> '{}' then
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
  end if;
  if new_tokens > 0 or new_cost > 0 then
    insert into spending (tenant_id, shard, day, tokens, nano_usd)
    values (
      mine.tenant_id, hashtext(mine.session_id) & 7, (clock_timestamp() at time zone 'utc')::date,
      new_tokens, coalesce(new_cost, 0))
    on conflict (tenant_id, shard) do update set
      -- Those of another day count no more.
      tokens = excluded.tokens + case when spending.day = excluded.day then spending.tokens else 0 end,
      nano_usd = excluded.nano_usd + case when spending.day = excluded.day then spending.nano_usd else 0 end,
      day = excluded.day;
  end if;
end
$$;

create function spent_today(p_tenant text) returns bigint language sql stable as $$
  select coalesce(sum(tokens), 0)::bigint from spending
  where tenant_id = p_tenant and day = (statement_timestamp() at time zone 'utc')::date
$$;

create function money_spent_today(p_tenant text) returns bigint language sql stable as $$
  select coalesce(sum(nano_usd), 0)::bigint from spending
  where tenant_id = p_tenant and day = (statement_timestamp() at time zone 'utc')::date
$$;

-- migrate:down

drop function money_spent_today, spent_today, count_usage;
drop table usage_days, spending;
