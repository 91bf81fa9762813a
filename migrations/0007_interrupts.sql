-- migrate:up

-- Interrupts. A message that interrupts also denies the pending approvals of its session. A run whose interrupt is
-- stored blocks no new run. A stop that arrives before its message is kept until the message arrives.

-- The part of the answer that the user had seen last when the run was interrupted; null: all of it.
alter table runs add column seen json;

-- A reply to a call may name the call alone.
create index approvals_of_call on approvals (tenant_id, call_id, number);

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

-- Lock the name of a session until the transaction ends. A session that does not exist has no row to lock: a
-- stop of it and the insert of its row take this lock first, so that one of them sees the other.
create function lock_session_name(p_tenant text, p_session text) returns void language sql as $$
  select pg_advisory_xact_lock(hashtextextended(p_tenant || E'\n' || p_session, 0))
$$;

create function lock_new_session() returns trigger language plpgsql as $$
begin
  perform lock_session_name(new.tenant_id, new.id);
  return new;
end
$$;

create trigger session_name before insert on sessions for each row execute function lock_new_session();

-- A run whose stop has come already is made as an interrupted one: its runner ends it.
create function apply_early_stop() returns trigger language plpgsql as $$
begin
  if exists (
    select from early_stops e
    where e.tenant_id = new.tenant_id and e.session_id = new.session_id and e.expires_at > clock_timestamp()
      and (e.user_id is null or e.user_id = new.user_id)
      and (e.message_id = new.user_message_id or (e.message_id is null and not exists (
        select from runs where tenant_id = new.tenant_id and session_id = new.session_id))))
  then
    new.interrupted_at := clock_timestamp();
  end if;
  return new;
end
$$;

create trigger early_stop before insert on runs for each row execute function apply_early_stop();

-- Keep a stop whose message may come within seconds. A stop that names no message may mean none: it is kept for
-- a shorter time.
create function store_early_stop(p_tenant text, p_user text, p_session text, p_message text) returns void
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

create or replace function run_json(r runs) returns json language sql stable as $$
  select json_build_object(
    'id', r.id, 'tenant', r.tenant_id, 'session', r.session_id, 'agent', r.agent, 'answer', r.answer_id,
    'state', r.state, 'ready', r.ready, 'turn', r.turn, 'attempt', r.attempt, 'error', r.error,
    'interrupted', r.interrupted_at is not null, 'user', r.user_id,
    'user_message', r.user_message_id,
    'usage', json_build_object('input_tokens', r.input_tokens, 'output_tokens', r.output_tokens))
$$;

create function asked_call_json(a approvals, r runs) returns json language sql stable as $$
  select json_build_object('approval', approval_json(a), 'run', run_json(r))
$$;

-- `waiting`: the earlier answers whose runs have not ended. Their open questions may still be answered.
create or replace function claim_run(p_run text, p_turn integer, p_runner text, p_history_max bigint) returns json
language plpgsql as $$
declare
  mine runs;
  left_out bigint;
begin
  select * into mine from runs where id = p_run for no key update;
  if not found or mine.turn <> p_turn or not mine.ready or mine.state not in ('queued', 'running') then
    return null;
  end if;
  update runs set state = 'running', attempt = attempt + 1, runner = p_runner, due_at = null,
    started_at = coalesce(started_at, clock_timestamp()), updated_at = clock_timestamp()
  where id = p_run
  returning * into mine;
  if p_history_max is not null then
    select position into left_out from messages
    where tenant_id = mine.tenant_id and session_id = mine.session_id and position < mine.position
      and body is not null
    order by position desc offset p_history_max limit 1;
  end if;
  return json_build_object(
    'run', run_json(mine),
    'history', (
      select coalesce(json_agg(body order by position), '[]') from messages
      where tenant_id = mine.tenant_id and session_id = mine.session_id and position < mine.position
        and body is not null and (left_out is null or position >= (
          select min(position) from messages
          where tenant_id = mine.tenant_id and session_id = mine.session_id and role = 'user'
            and position > left_out and position < mine.position))),
    'answer', (
      select body from messages
      where tenant_id = mine.tenant_id and session_id = mine.session_id and id = mine.answer_id
        and run_id = mine.id and role = 'assistant'),
    'approvals', (
      select coalesce(json_agg(approval_json(a) order by number), '[]') from approvals a
      where run_id = mine.id),
    'waiting', (
      select coalesce(json_agg(answer_id order by position), '[]') from runs
      where tenant_id = mine.tenant_id and session_id = mine.session_id and position < mine.position
        and ended_at is null),
    'context', bytes_json(coalesce(mine.context, (
      select context from sessions where tenant_id = mine.tenant_id and id = mine.session_id))));
end
$$;

-- Whether the session has a queued or running run that is not interrupted.
create function session_occupied(p_tenant text, p_session text) returns boolean language plpgsql as $$
begin
  return exists (
    select from runs
    where tenant_id = p_tenant and session_id = p_session and state in ('queued', 'running')
      and interrupted_at is null);
end
$$;

-- Apply `when_busy` to a locked session before a new run is added. An interrupt also denies the pending approvals
-- of suspended runs: these runs are ended before the new one begins. If p_from is given, delete the messages from
-- that position on: a busy run whose answer is among them must be interrupted and stores nothing further; a
-- suspended run, whose log is closed, is cancelled. Raises RJ423 if a run that is not interrupted blocks the new
-- one.
create or replace function apply_when_busy(p_tenant text, p_session text, p_when_busy text, p_from bigint) returns void
language plpgsql as $$
begin
  if p_when_busy = 'interrupt' then
    perform mark_interrupted(id) from (
      select id from runs
      where tenant_id = p_tenant and session_id = p_session and (
        (state in ('queued', 'running') and (id = (current_run(p_tenant, p_session)).id or position >= p_from))
        or (state = 'suspended' and (p_from is null or position < p_from)))
      order by position) flagged;
    perform promote_run(p_tenant, p_session);
  elsif not session_occupied(p_tenant, p_session) then
    null;
  elsif p_when_busy = 'reject' then
    perform refuse('RJ423', 'the session is busy');
  elsif p_from is not null then
    perform refuse('RJ423', 'the session is busy: its messages cannot be replaced while a run answers them');
  end if;
  if p_from is null then
    return;
  end if;
  delete from messages where tenant_id = p_tenant and session_id = p_session and position >= p_from;
  with cancelled as (
    update runs set
      state = 'cancelled', context = null, ended_at = clock_timestamp(), updated_at = clock_timestamp()
    where tenant_id = p_tenant and session_id = p_session and position >= p_from and state = 'suspended'
    returning id)
  update approvals set state = 'cancelled', decided_at = clock_timestamp()
  where run_id in (select id from cancelled) and state = 'pending';
end
$$;

drop function interrupt_run;

-- Interrupt one run: the named one, or that of the named message. Without a name: the current run and every
-- suspended one, so that the session has no pending approval.
create function interrupt_run(
  p_tenant text, p_user text, p_session text, p_run text, p_message text, p_seen json
) returns json language plpgsql as $$
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

-- `claim_run` and `run_json` stay as they are now: they need nothing of what goes here.

create or replace function apply_when_busy(p_tenant text, p_session text, p_when_busy text, p_from bigint) returns void
language plpgsql as $$
begin
  if not session_busy(p_tenant, p_session) then
    null;
  elsif p_when_busy = 'reject' then
    perform refuse('RJ409', 'the session is busy');
  elsif p_when_busy = 'interrupt' then
    perform mark_interrupted(id) from runs
    where tenant_id = p_tenant and session_id = p_session and state in ('queued', 'running')
      and (id = (current_run(p_tenant, p_session)).id or position >= p_from);
    perform promote_run(p_tenant, p_session);
  elsif p_from is not null then
    perform refuse('RJ409', 'the session is busy: its messages cannot be replaced while a run answers them');
  end if;
  if p_from is null then
    return;
  end if;
  delete from messages where tenant_id = p_tenant and session_id = p_session and position >= p_from;
  with cancelled as (
    update runs set
      state = 'cancelled', context = null, ended_at = clock_timestamp(), updated_at = clock_timestamp()
    where tenant_id = p_tenant and session_id = p_session and position >= p_from and state = 'suspended'
    returning id)
  update approvals set state = 'cancelled', decided_at = clock_timestamp()
  where run_id in (select id from cancelled) and state = 'pending';
end
$$;

drop function interrupt_run, session_occupied, asked_call_json, store_early_stop;
drop trigger early_stop on runs;
drop trigger session_name on sessions;
drop function apply_early_stop, lock_new_session, lock_session_name;
drop table early_stops;
drop index approvals_of_call;
alter table runs drop column seen;

create function interrupt_run(p_tenant text, p_user text, p_session text, p_run text) returns json language plpgsql as $$
declare
  mine runs;
begin
  if not lock_session(p_tenant, p_user, p_session) then
    perform refuse('RJ404', 'there is no such session');
  end if;
  select * into mine from runs
  where tenant_id = p_tenant and session_id = p_session and id = coalesce(p_run,
    (current_run(p_tenant, p_session)).id,
    (select id from runs
     where tenant_id = p_tenant and session_id = p_session and state = 'suspended'
     order by position desc limit 1));
  if not found and p_run is not null then
    perform refuse('RJ404', 'there is no such run in the session');
  elsif mine.ended_at is null and mine.id is not null then
    perform mark_interrupted(mine.id);
    perform promote_run(p_tenant, p_session);
    select * into mine from runs where id = mine.id;
  end if;
  return json_build_object(
    'run', case when mine.id is not null then run_json(mine) end,
    'interrupted', mine.id is not null and mine.ended_at is null);
end
$$;
