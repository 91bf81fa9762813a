-- migrate:up

-- Interrupts. A message that interrupts also denies the pending approvals of its session. A run whose interrupt is
-- stored blocks no new run. A stop that arrives before its message is kept until the message arrives.

-- Stops that have come before the message that they stop. `message_id` null: the first message of a session
-- that does not exist yet. A row is of no use after `expires_at`; the next one deletes it.
create table early_stops (
  number bigint primary key generated always as identity,
  tenant_id text not null references tenants on delete cascade,
  session_id text not null,
  user_id text,  -- of whom it holds; null: of every user of the tenant
  message_id text,
  expires_at timestamptz not null
);

create index early_stops_of_session on early_stops (tenant_id, session_id);
create index early_stops_expired on early_stops (expires_at);

-- Keep a stop whose message may come within seconds. A stop that names no message may mean none: it is kept for
-- a shorter time. The same stop again is the same row, and a tenant has at most a thousand. They are counted
-- without a lock, so a burst may exceed that slightly.
create function store_early_stop(p_tenant text, p_user text, p_session text, p_message text) returns void
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

-- Whether the stop of a new run has come already.
create function is_stopped(p_tenant text, p_owner text, p_session text, p_message text) returns boolean
language plpgsql as $$
begin
  return exists (
    select from early_stops e
    where e.tenant_id = p_tenant and e.session_id = p_session and e.expires_at > clock_timestamp()
      and (e.user_id is null or e.user_id = p_owner)
      and (e.message_id = p_message or (e.message_id is null and not exists (
        select from runs where tenant_id = p_tenant and session_id = p_session))));
end
$$;

-- Flag a run of a locked session as interrupted: the runner that has it, or claims it, ends it. Its pending
-- approvals are cancelled; a suspended run is queued for the turn in which a runner ends it.
create function mark_interrupted(p_run text) returns void language plpgsql as $$
begin
  update runs set
    interrupted_at = clock_timestamp(), updated_at = clock_timestamp(),
    turn = turn + (state = 'suspended')::int,
    ready = ready and state <> 'suspended',
    state = case state when 'suspended' then 'queued' else state end
  where id = p_run and interrupted_at is null and ended_at is null;
  update approvals set state = 'cancelled', decided_at = clock_timestamp()
  where run_id = p_run and state = 'pending';
end
$$;

-- Interrupt one run: the named one, or that of the named message. Without a name: the current run and every
-- suspended one, so that the session has no pending approval.
create function interrupt_run(
  p_tenant text, p_user text, p_session text, p_run text, p_message text, p_seen json
) returns json
language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
  mine runs;
  named text := p_run;
  found_session boolean := lock_session(p_tenant, p_user, p_session);
begin
  if not found_session then
    perform lock_session_name(p_tenant, p_session);
    found_session := lock_session(p_tenant, p_user, p_session);  -- its first message may have come meanwhile
  end if;
  if found_session and p_run is null and p_message is not null then
    select run_id into named from messages
    where tenant_id = p_tenant and session_id = p_session and id = p_message;
  end if;
  if named is null and (p_message is not null or not found_session) then
    perform store_early_stop(p_tenant, p_user, p_session, p_message);
    return json_build_object('run', null, 'interrupted', false, 'known', found_session);
  elsif not found_session then
    perform refuse('RJ404', 'there is no such session');
  end if;
  select * into mine from runs
  where tenant_id = p_tenant and session_id = p_session and id = coalesce(named,
    (current_run(p_tenant, p_session)).id,
    (select id from runs
     where tenant_id = p_tenant and session_id = p_session and state = 'suspended'
     order by position limit 1));
  if not found and named is not null then
    perform refuse('RJ404', 'there is no such run in the session');
  elsif mine.ended_at is null and mine.id is not null then
    update runs set seen = p_seen where id = mine.id and interrupted_at is null;
    perform mark_interrupted(mine.id);
    if named is null then
      perform mark_interrupted(id) from (
        select id from runs where tenant_id = p_tenant and session_id = p_session and state = 'suspended'
        order by position) suspended;
    end if;
    perform promote_run(p_tenant, p_session);
    select * into mine from runs where id = mine.id;
  end if;
  return json_build_object(
    'run', case when mine.id is not null then run_json(mine) end,
    'interrupted', mine.id is not null and mine.ended_at is null);
end
$$;

-- migrate:down

drop function interrupt_run, mark_interrupted;
drop function is_stopped, store_early_stop;
drop table early_stops;
