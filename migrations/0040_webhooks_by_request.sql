-- migrate:up

-- A request may name a receiver for its run alone, if the tenant has an endpoint whose URL is `*`: that endpoint's secret
-- signs, and its events and places count. The URL is among the run's request options until the run has ended.

create unique index webhook_endpoints_of_requests on webhook_endpoints (tenant_id) where url = '*';

-- Null: the endpoint's.
alter table webhook_deliveries add column url text;

create or replace function queue_webhooks() returns trigger language plpgsql as $$
declare
  v_event text := case new.state when 'suspended' then 'run.waiting' else 'run.' || new.state end;
  -- The end of a run drops its options before this trigger.
  -- Not by `->>`, which refuses the whole object for a character that PostgreSQL cannot store (\u0000) anywhere in it. The
  -- field is the last one, and a URL has neither quotes nor backslashes.
  v_url text := substring(
    coalesce(new.request_options, old.request_options)::text from '"webhook_url":"([^"\\]*)"\}$');
begin
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

-- As before; deliveries of one session to several URLs do not wait for each other.
create or replace function claim_webhooks(p_max integer, p_each integer, p_tenant integer, p_lease_s double precision)
returns json language sql as $$
  with loads as (
    select e.id, e.tenant_id, (
      select count(*) from webhook_deliveries sending
      where sending.endpoint_id = e.id and sending.state = 'pending'
        and sending.leased_until >= statement_timestamp()) as busy
    from webhook_endpoints e where e.disabled_at is null),
  shares as (select *, sum(busy) over (partition by tenant_id) as tenant_busy from loads),
  due as (
    select d.number, tenant_busy + row_number() over (partition by s.tenant_id order by d.due_at) as place
    from shares s
    cross join lateral (
      select number, due_at from webhook_deliveries d
      where d.endpoint_id = s.id and d.state = 'pending' and d.due_at <= statement_timestamp()
        and (d.leased_until is null or d.leased_until < statement_timestamp())
        and not exists (
          select from webhook_deliveries earlier
          where earlier.endpoint_id = d.endpoint_id and earlier.session_id = d.session_id
            and earlier.url is not distinct from d.url
            and earlier.state = 'pending' and earlier.number < d.number)
      order by d.due_at limit greatest(0, p_each - s.busy)) d),
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
    'old_secret', case when e.old_secret_until > statement_timestamp() then bytes_json(e.old_secret) end)), '[]')
  from taken d join webhook_endpoints e on e.id = d.endpoint_id
$$;

-- As before; a receiver that one request has named switches no endpoint off.
create or replace function settle_webhook(
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

-- migrate:down

create or replace function settle_webhook(
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
    update webhook_endpoints set disabled_at = clock_timestamp() where id = mine.endpoint_id and disabled_at is null;
  end if;
  if p_error is null then
    update webhook_deliveries set state = 'delivered', done_at = clock_timestamp(), leased_until = null, error = null
    where number = p_number;
    update webhook_deliveries set due_at = clock_timestamp()
    where endpoint_id = mine.endpoint_id and session_id = mine.session_id and state = 'pending'
      and number > p_number and due_at > clock_timestamp();
  elsif p_gone or again > mine.expires_at then
    update webhook_deliveries set state = 'failed', done_at = clock_timestamp(), leased_until = null, error = p_error
    where number = p_number;
  else
    update webhook_deliveries set leased_until = null, due_at = again, error = p_error where number = p_number;
    update webhook_deliveries set due_at = again
    where endpoint_id = mine.endpoint_id and session_id = mine.session_id and state = 'pending'
      and number > p_number and due_at < again;
  end if;
end
$$;

create or replace function claim_webhooks(p_max integer, p_each integer, p_tenant integer, p_lease_s double precision) returns json
language sql as $$
  with loads as (
    select e.id, e.tenant_id, (
      select count(*) from webhook_deliveries sending
      where sending.endpoint_id = e.id and sending.state = 'pending'
        and sending.leased_until >= statement_timestamp()) as busy
    from webhook_endpoints e where e.disabled_at is null),
  shares as (select *, sum(busy) over (partition by tenant_id) as tenant_busy from loads),
  due as (
    select d.number, tenant_busy + row_number() over (partition by s.tenant_id order by d.due_at) as place
    from shares s
    cross join lateral (
      select number, due_at from webhook_deliveries d
      where d.endpoint_id = s.id and d.state = 'pending' and d.due_at <= statement_timestamp()
        and (d.leased_until is null or d.leased_until < statement_timestamp())
        and not exists (
          select from webhook_deliveries earlier
          where earlier.endpoint_id = d.endpoint_id and earlier.session_id = d.session_id
            and earlier.state = 'pending' and earlier.number < d.number)
      order by d.due_at limit greatest(0, p_each - s.busy)) d),
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
    'number', d.number, 'endpoint', e.id, 'tenant', e.tenant_id, 'url', e.url, 'attempt', d.attempts,
    'payload', d.payload, 'secret', bytes_json(e.secret),
    'old_secret', case when e.old_secret_until > statement_timestamp() then bytes_json(e.old_secret) end)), '[]')
  from taken d join webhook_endpoints e on e.id = d.endpoint_id
$$;

create or replace function queue_webhooks() returns trigger language plpgsql as $$
declare
  v_event text := case new.state when 'suspended' then 'run.waiting' else 'run.' || new.state end;
begin
  insert into webhook_deliveries (endpoint_id, tenant_id, session_id, run_id, event, payload, expires_at)
  select e.id, new.tenant_id, new.session_id, new.id, v_event, webhook_payload(new, v_event),
    clock_timestamp() + interval '1 day'
  from webhook_endpoints e
  where e.tenant_id = new.tenant_id and e.disabled_at is null and v_event = any (e.events);
  return null;
end
$$;

alter table webhook_deliveries drop column url;
drop index webhook_endpoints_of_requests;
