-- migrate:up

-- Webhooks (standardwebhooks.com): who wants to be told of runs that end or wait, and what is still to be sent. A trigger
-- writes a delivery in the transaction that changes the run, so no crash can separate the two.
create table webhook_endpoints (
  id text primary key,
  tenant_id text not null references tenants on delete cascade,
  url text not null,
  events text[] not null,
  secret bytea not null,  -- sealed
  -- The secret before the last rotation signs as well until then; sealed.
  old_secret bytea,
  old_secret_until timestamptz,
  -- Since when nothing is sent: the receiver has answered 410.
  disabled_at timestamptz,
  created_at timestamptz not null default clock_timestamp()
);

create index webhook_endpoints_of_tenant on webhook_endpoints (tenant_id, created_at);

-- A request may name a receiver for its run alone, if the tenant has an endpoint whose URL is `*`: that endpoint's secret
-- signs, and its events and places count. The URL is among the run's request options until the run has ended.
create unique index webhook_endpoints_of_requests on webhook_endpoints (tenant_id) where url = '*';

create table webhook_deliveries (
  number bigint primary key generated always as identity,
  endpoint_id text not null references webhook_endpoints on delete cascade,
  tenant_id text not null,
  session_id text,
  -- Deleted with its run; null: a test.
  run_id text references runs on delete cascade,
  -- The receiver that the run's request has named; null: the endpoint's.
  url text,
  event text not null,
  payload json not null,
  state text not null default 'pending' check (state in ('pending', 'delivered', 'failed')),
  attempts integer not null default 0,
  due_at timestamptz not null default clock_timestamp(),
  leased_until timestamptz,
  -- After this time it fails.
  expires_at timestamptz not null,
  error text,
  created_at timestamptz not null default clock_timestamp(),
  done_at timestamptz,
  constraint done_is_not_pending check ((state = 'pending') = (done_at is null))
);

create index webhook_deliveries_due on webhook_deliveries (endpoint_id, due_at) where state = 'pending';
create index webhook_deliveries_order on webhook_deliveries (endpoint_id, session_id, number) where state = 'pending';
create index webhook_deliveries_leased on webhook_deliveries (endpoint_id)
  where state = 'pending' and leased_until is not null;
create index webhook_deliveries_of_endpoint on webhook_deliveries (endpoint_id, state, number);
create index webhook_deliveries_of_run on webhook_deliveries (run_id);
create index webhook_deliveries_done on webhook_deliveries (done_at) where done_at is not null;
create index webhook_deliveries_pages on webhook_deliveries (endpoint_id, number);

-- Texts of people are not in it: whoever is told reads the answer with a key.
create function webhook_payload(r runs, p_event text) returns json language sql stable as $$
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

create function queue_webhooks() returns trigger language plpgsql as $$
declare
  v_event text;
  v_url text;
begin
  if not exists (select from webhook_endpoints where tenant_id = new.tenant_id) then
    return null;
  end if;
  v_event := case new.state when 'suspended' then 'run.waiting' else 'run.' || new.state end;
  -- The end of a run drops its options. Not by `->>`, which refuses the whole object for a character that PostgreSQL cannot
  -- store (\u0000) anywhere in it. The field is the last one, and a URL has neither quotes nor backslashes.
  v_url := substring(
    coalesce(new.request_options, old.request_options)::text from '"webhook_url":"([^"\\]*)"\}$');
  insert into webhook_deliveries (endpoint_id, tenant_id, session_id, run_id, event, payload, expires_at, url)
  select e.id, new.tenant_id, new.session_id, new.id, v_event, webhook_payload(new, v_event),
    clock_timestamp() + interval '1 day', case when e.url = '*' then v_url end
  from webhook_endpoints e
  where e.tenant_id = new.tenant_id and e.disabled_at is null and v_event = any (e.events)
    and (e.url <> '*' or v_url is not null)
  -- One that is being removed gets nothing more, and a run does not wait for its removal.
  for key share of e skip locked;
  return null;
end
$$;

create trigger webhooks after update of state on runs for each row
  when (old.state <> new.state and new.state in ('suspended', 'completed', 'failed', 'cancelled'))
  execute function queue_webhooks();

-- At most 10,000 deliveries of runs wait for one endpoint (ports.webhooks.PENDING_MAX): each claim looks through those of
-- a session. Further ones have failed at once, so that a replay sends them.
create function bound_webhooks() returns trigger language plpgsql as $$
begin
  if new.run_id is not null and exists (
    select from webhook_deliveries where endpoint_id = new.endpoint_id and state = 'pending' offset 9999)
  then
    new.state := 'failed';
    new.error := '10000 earlier deliveries wait';
    new.done_at := clock_timestamp();
  end if;
  return new;
end
$$;

create trigger bound before insert on webhook_deliveries for each row execute function bound_webhooks();

-- Who receives what is sent to a URL: its host and port, in one form. Case, a dot at the host's end, credentials and the
-- scheme's own port make no other receiver.
create function webhook_receiver(p_url text) returns text language sql immutable as $$
  select lower(rtrim(found[2], '.')) || ':'
    || coalesce(nullif(found[3], ''), case lower(found[1]) when 'http' then '80' else '443' end)
  from regexp_match(p_url, '^([^:]+)://(?:[^/?#]*@)?(\[[^/?#]*\]|[^/?#:]*)(?::0*([0-9]*))?') as found
$$;

-- The deliveries of an endpoint that may be sent now: of each session and URL the oldest.
create function due_webhooks(p_endpoint text) returns setof webhook_deliveries language sql stable as $$
  select d.* from webhook_deliveries d
  where d.endpoint_id = p_endpoint and d.state = 'pending' and d.due_at <= statement_timestamp()
    and (d.leased_until is null or d.leased_until < statement_timestamp())
    and not exists (
      select from webhook_deliveries earlier
      where earlier.endpoint_id = d.endpoint_id and earlier.session_id = d.session_id
        and earlier.url is not distinct from d.url
        and earlier.state = 'pending' and earlier.number < d.number)
$$;

-- Take deliveries to send now: at most p_each at a time of an endpoint and p_tenant of a tenant, over all senders. Of an
-- endpoint whose URLs requests name, at most half of p_each to one receiver: one that hangs leaves the others their places.
-- Another sender takes them again after p_lease_s.
create function claim_webhooks(p_max integer, p_each integer, p_tenant integer, p_lease_s double precision)
returns json language sql as $$
  with sending as (
    select endpoint_id, webhook_receiver(url) as receiver, count(*) as busy from webhook_deliveries
    where state = 'pending' and leased_until >= statement_timestamp()
    group by endpoint_id, receiver),
  loads as (
    select e.id, e.tenant_id, e.url, coalesce((select sum(busy) from sending where endpoint_id = e.id), 0) as busy
    from webhook_endpoints e where e.disabled_at is null),
  shares as (select *, sum(busy) over (partition by tenant_id) as tenant_busy from loads),
  due as (
    select d.number, tenant_busy + row_number() over (partition by s.tenant_id order by d.due_at) as place
    from shares s
    cross join lateral (
      (select number, due_at from due_webhooks(s.id) where s.url <> '*' order by due_at
      limit greatest(0, p_each - s.busy))
      union all
      (select number, due_at from (
        select d.number, d.due_at, coalesce(sending.busy, 0)
          + row_number() over (partition by webhook_receiver(d.url) order by d.due_at) as place_at_receiver
        from due_webhooks(s.id) d
        left join sending on sending.endpoint_id = s.id and sending.receiver = webhook_receiver(d.url)
        where s.url = '*') named
      where place_at_receiver <= greatest(1, p_each / 2)
      order by due_at limit greatest(0, p_each - s.busy))) d),
  chosen as (
    select number from webhook_deliveries
    where number in (select number from due where place <= p_tenant order by place limit p_max) and state = 'pending'
      and (leased_until is null or leased_until < statement_timestamp())
    for update skip locked),
  taken as (
    update webhook_deliveries d
    set leased_until = statement_timestamp() + p_lease_s * interval '1 second', attempts = attempts + 1
    from chosen where d.number = chosen.number
    returning d.*)
  select coalesce(json_agg(json_build_object(
    'number', d.number, 'endpoint', e.id, 'tenant', e.tenant_id, 'url', coalesce(d.url, e.url), 'attempt', d.attempts,
    'by_request', d.url is not null,
    'payload', d.payload, 'secret', bytes_json(e.secret),
    'old_secret', case when e.old_secret_until > statement_timestamp() then bytes_json(e.old_secret) end)
    order by d.number), '[]')
  from taken d join webhook_endpoints e on e.id = d.endpoint_id
$$;

-- What became of a delivery. p_error null: the receiver has it. p_retry_s: when to try again; the later ones of the
-- session to the same URL wait as long. p_gone: nothing more is sent to the endpoint, unless one request has named the URL.
create function settle_webhook(
  p_number bigint, p_attempt integer, p_error text, p_retry_s double precision, p_gone boolean
) returns void language plpgsql as $$
declare
  mine webhook_deliveries;
  again timestamptz := clock_timestamp() + p_retry_s * interval '1 second';
begin
  select * into mine from webhook_deliveries where number = p_number for update;
  if not found or mine.state <> 'pending' or (mine.attempts <> p_attempt and p_error is not null) then
    return;  -- deleted, or another sender has it
  end if;
  if p_gone then
    -- A receiver that one request has named says nothing about others.
    update webhook_endpoints set disabled_at = clock_timestamp()
    where id = mine.endpoint_id and disabled_at is null and mine.url is null;
  end if;
  if p_error is null then
    update webhook_deliveries set state = 'delivered', done_at = clock_timestamp(), leased_until = null, error = null
    where number = p_number;
    update webhook_deliveries set due_at = clock_timestamp()
    where endpoint_id = mine.endpoint_id and session_id = mine.session_id and state = 'pending'
      and url is not distinct from mine.url
      and number > p_number and due_at > clock_timestamp();
  elsif p_gone or again > mine.expires_at then
    update webhook_deliveries set state = 'failed', done_at = clock_timestamp(), leased_until = null, error = p_error
    where number = p_number;
  else
    update webhook_deliveries set leased_until = null, due_at = again, error = p_error where number = p_number;
    update webhook_deliveries set due_at = again
    where endpoint_id = mine.endpoint_id and session_id = mine.session_id and state = 'pending'
      and url is not distinct from mine.url
      and number > p_number and due_at < again;
  end if;
end
$$;

-- `settle_webhook`, and the state that the delivery has now; null if nothing was stored.
create function settle_delivery(
  p_number bigint, p_attempt integer, p_error text, p_retry_s double precision, p_gone boolean
) returns text language plpgsql as $$
begin
  perform from webhook_deliveries
  where number = p_number and state = 'pending' and (attempts = p_attempt or p_error is null) for update;
  if not found then
    return null;
  end if;
  perform settle_webhook(p_number, p_attempt, p_error, p_retry_s, p_gone);
  return (select state from webhook_deliveries where number = p_number);
end
$$;

-- migrate:down

drop function settle_delivery, settle_webhook, claim_webhooks, due_webhooks, webhook_receiver;
drop trigger bound on webhook_deliveries;
drop function bound_webhooks;
drop trigger webhooks on runs;
drop function queue_webhooks, webhook_payload;
drop table webhook_deliveries, webhook_endpoints;
