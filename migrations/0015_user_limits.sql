-- migrate:up

-- Limits for each user of a tenant, beside those of the tenant: concurrent runs (user_running_max) and queued runs
-- (user_queued_max). A run waits until both its tenant and its user have a place. A user without a place is in no
-- other user's way: waiting runs are promoted in the order of their admission, without those of full users.
--
-- A tenant that is far from its limits locks nothing: its row is locked once it may be the last place that is given
-- away. So a burst of so many admissions at the same moment, all by one tenant, may exceed a limit above 32.

create or replace view waiting_runs as
  select id, tenant_id, session_id, number, user_id from runs r
  where state = 'queued' and not ready and not exists (
    select from runs other
    where other.tenant_id = r.tenant_id and other.session_id = r.session_id
      and other.state in ('queued', 'running') and (other.ready or other.position < r.position)
    offset 0);

-- The users of a tenant who have no place for another run.
create function full_users(p_tenant text) returns text[] language plpgsql stable as $$
declare
  most bigint := limit_of(p_tenant, 'user_running_max');
begin
  if most is null then
    return '{}';
  end if;
  return array(
    select user_id from runs
    where tenant_id = p_tenant and user_id is not null and ready and state in ('queued', 'running')
    group by user_id having count(*) >= most);
end
$$;

-- The waiting runs of a tenant whose users have a place.
create function promotable_runs(p_tenant text) returns setof waiting_runs language sql stable as $$
  select * from waiting_runs
  where tenant_id = p_tenant and (user_id is null or user_id <> all ((select full_users(p_tenant))::text[]))
$$;

-- How many more runs of a tenant and a user may be ready; null without a limit. p_user null: any user. Locks the
-- tenant's row unless many places are free: whoever gives the last ones away, and whoever frees the first one, see
-- each other.
create function lock_free_places(p_tenant text, p_user text) returns bigint language plpgsql as $$
declare
  most bigint := limit_of(p_tenant, 'running_max');
  user_most bigint := case when p_user is not null then limit_of(p_tenant, 'user_running_max') end;
  free bigint;
  user_free bigint;
begin
  for look in 1 .. 2 loop
    if most is not null then
      free := most - count_ready(p_tenant);
    end if;
    if user_most is not null then
      user_free := user_most - (
        select count(*) from runs
        where tenant_id = p_tenant and user_id = p_user and ready and state in ('queued', 'running'));
    end if;
    exit when look = 2 or ((free > 32) is not false and (user_free > 1) is not false);
    perform from tenants where id = p_tenant for no key update;
  end loop;
  return least(free, user_free);
end
$$;

create or replace function promote_run(p_tenant text, p_session text) returns json language plpgsql as $$
declare
  -- Before the first read: the holder of the tenant's row may make runs of this session ready, too.
  places bigint := lock_free_places(
    p_tenant, (select user_id from sessions where tenant_id = p_tenant and id = p_session));
  first runs := current_run(p_tenant, p_session);
begin
  if not first.ready then
    update runs set ready = true, due_at = clock_timestamp(), updated_at = clock_timestamp()
    where id = first.id and not ready
      and (places is null or first.interrupted_at is not null or (places > 0 and not exists (
        select from promotable_runs(p_tenant) where number < first.number)))
    returning * into first;
  end if;
  return case when first.due_at is not null then request_json(first) end;
end
$$;

-- Make the run of a tenant ready that has waited longest, if there is a place. Returns its request.
create or replace function promote_next(p_tenant text) returns json language plpgsql as $$
declare
  next runs;
begin
  if limit_of(p_tenant, 'running_max') is null and limit_of(p_tenant, 'user_running_max') is null then
    return null;
  end if;
  if (lock_free_places(p_tenant, null) > 0) is not false then
    update runs set ready = true, due_at = clock_timestamp(), updated_at = clock_timestamp()
    where id = (
      select id from waiting_runs
      where tenant_id = p_tenant and (user_id is null or user_id <> all ((select full_users(p_tenant))::text[]))
      order by number limit 1 for no key update skip locked)
    returning * into next;
  end if;
  return case when next.id is not null then request_json(next) end;
end
$$;

create or replace function promote_waiting(p_max bigint) returns json language plpgsql as $$
declare
  waiting record;
  request json;
  requests json[] := '{}';
begin
  for waiting in
    with held as materialized (select distinct tenant_id from runs where state = 'queued' and not ready),
    with_places as materialized (
      select tenant_id from held
      where (limit_of(tenant_id, 'running_max') > count_ready(tenant_id)) is not false)
    select w.tenant_id, w.session_id from with_places p cross join lateral promotable_runs(p.tenant_id) w
    order by w.tenant_id, w.number limit p_max
  loop
    perform from sessions where tenant_id = waiting.tenant_id and id = waiting.session_id
    for no key update skip locked;
    continue when not found;
    request := promote_run(waiting.tenant_id, waiting.session_id);
    if request is not null then
      requests := requests || request;
    end if;
  end loop;
  return array_to_json(requests);
end
$$;

-- Refuse a run if the tenant or the user has reached a limit. Queued runs are counted without a lock, so a burst may
-- exceed the limit slightly. The tokens of a run are known once it ends or is suspended.
create function check_limits(p_tenant text, p_user text) returns void language plpgsql as $$
declare
  queued_max bigint := limit_of(p_tenant, 'queued_max');
  user_queued_max bigint := limit_of(p_tenant, 'user_queued_max');
  tokens_max bigint := limit_of(p_tenant, 'tokens_per_day');
  today timestamp := statement_timestamp() at time zone 'utc';
begin
  if queued_max is not null and queued_max <= (
    select count(*) from (
      select from runs where tenant_id = p_tenant and state = 'queued' limit queued_max) queued)
  then
    perform refuse('RJ429', format('the tenant has too many runs queued: at most %s', queued_max), 5);
  elsif p_user is not null and user_queued_max is not null and user_queued_max <= (
    select count(*) from (
      select from runs where tenant_id = p_tenant and user_id = p_user and state = 'queued'
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

-- As services of the version before call it.
create or replace function check_limits(p_tenant text) returns void language sql as $$
  select check_limits(p_tenant, null)
$$;

drop function free_places;

create or replace function add_run(
  p_tenant text, p_session text, p_agent text, p_run text, p_answer text, p_place bigint, p_trigger text,
  p_message text, p_key text, p_target text, p_digest bytea, p_context bytea, p_remember boolean
) returns runs language plpgsql as $$
declare
  home text := (select user_id from sessions where tenant_id = p_tenant and id = p_session);
  free boolean := not session_busy(p_tenant, p_session);
  places bigint;
  made runs;
begin
  perform check_limits(p_tenant, home);
  if free then
    places := lock_free_places(p_tenant, home);
    free := places is null or (places > 0 and not exists (select from promotable_runs(p_tenant)));
  end if;
  if p_remember then
    update sessions set context = p_context where tenant_id = p_tenant and id = p_session;
  end if;
  insert into runs (
    id, tenant_id, session_id, user_id, agent, trigger, user_message_id, answer_id, key, target, digest,
    position, ready, due_at, context)
  values (
    p_run, p_tenant, p_session, home, p_agent, p_trigger, p_message, p_answer, p_key, p_target, p_digest,
    p_place, free, case when free then clock_timestamp() end, p_context)
  returning * into made;
  return made;
end
$$;

-- Sessions without any message: those that MCP clients have opened and not used.
create index sessions_empty on sessions (tenant_id, user_id, created_at) where next_position = 0;

-- migrate:down

drop index sessions_empty;

create function free_places(p_tenant text) returns bigint language plpgsql as $$
begin
  if limit_of(p_tenant, 'running_max') is null then
    return null;
  end if;
  perform from tenants where id = p_tenant for no key update;
  return limit_of(p_tenant, 'running_max') - count_ready(p_tenant);
end
$$;

create or replace function promote_run(p_tenant text, p_session text) returns json language plpgsql as $$
declare
  -- Before the first read: the holder of the tenant's row may make runs of this session ready, too.
  places bigint := free_places(p_tenant);
  first runs := current_run(p_tenant, p_session);
begin
  if not first.ready then
    update runs set ready = true, due_at = clock_timestamp(), updated_at = clock_timestamp()
    where id = first.id and not ready
      and (places is null or first.interrupted_at is not null or (places > 0 and not exists (
        select from waiting_runs where tenant_id = p_tenant and number < first.number)))
    returning * into first;
  end if;
  return case when first.due_at is not null then request_json(first) end;
end
$$;

create or replace function promote_next(p_tenant text) returns json language plpgsql as $$
declare
  next runs;
begin
  if free_places(p_tenant) > 0 then
    update runs set ready = true, due_at = clock_timestamp(), updated_at = clock_timestamp()
    where id = (
      select id from waiting_runs where tenant_id = p_tenant
      order by number limit 1 for no key update skip locked)
    returning * into next;
  end if;
  return case when next.id is not null then request_json(next) end;
end
$$;

create or replace function check_limits(p_tenant text) returns void language plpgsql as $$
declare
  queued_max bigint := limit_of(p_tenant, 'queued_max');
  tokens_max bigint := limit_of(p_tenant, 'tokens_per_day');
  today timestamp := statement_timestamp() at time zone 'utc';
begin
  if queued_max is not null and queued_max <= (
    select count(*) from (
      select from runs where tenant_id = p_tenant and state = 'queued' limit queued_max) queued)
  then
    perform refuse('RJ429', 'the tenant has too many runs queued', 5);
  elsif tokens_max is not null and tokens_max <= spent_today(p_tenant) then
    perform refuse(
      'RJ429', 'the tenant has used up its tokens of the day',
      ceil(extract(epoch from date_trunc('day', today) + interval '1 day' - today))::integer);
  end if;
end
$$;

create or replace function add_run(
  p_tenant text, p_session text, p_agent text, p_run text, p_answer text, p_place bigint, p_trigger text,
  p_message text, p_key text, p_target text, p_digest bytea, p_context bytea, p_remember boolean
) returns runs language plpgsql as $$
declare
  free boolean := not session_busy(p_tenant, p_session);
  places bigint;
  made runs;
begin
  perform check_limits(p_tenant);
  if free then
    places := free_places(p_tenant);
    free := places is null or (places > 0 and not exists (
      select from waiting_runs where tenant_id = p_tenant));
  end if;
  if p_remember then
    update sessions set context = p_context where tenant_id = p_tenant and id = p_session;
  end if;
  insert into runs (
    id, tenant_id, session_id, user_id, agent, trigger, user_message_id, answer_id, key, target, digest,
    position, ready, due_at, context)
  values (
    p_run, p_tenant, p_session, (select user_id from sessions where tenant_id = p_tenant and id = p_session),
    p_agent, p_trigger, p_message, p_answer, p_key, p_target, p_digest,
    p_place, free, case when free then clock_timestamp() end, p_context)
  returning * into made;
  return made;
end
$$;

create or replace function promote_waiting(p_max bigint) returns json language plpgsql as $$
declare
  waiting record;
  request json;
  requests json[] := '{}';
begin
  for waiting in
    with held as materialized (select distinct tenant_id from runs where state = 'queued' and not ready),
    with_places as materialized (
      select tenant_id from held
      where (limit_of(tenant_id, 'running_max') > count_ready(tenant_id)) is not false)
    select tenant_id, session_id from with_places join waiting_runs using (tenant_id)
    order by tenant_id, number limit p_max
  loop
    perform from sessions where tenant_id = waiting.tenant_id and id = waiting.session_id
    for no key update skip locked;
    continue when not found;
    request := promote_run(waiting.tenant_id, waiting.session_id);
    if request is not null then
      requests := requests || request;
    end if;
  end loop;
  return array_to_json(requests);
end
$$;

drop function check_limits(text, text);
drop function lock_free_places, promotable_runs, full_users;
drop view waiting_runs;

create view waiting_runs as
  select id, tenant_id, session_id, number from runs r
  where state = 'queued' and not ready and not exists (
    select from runs other
    where other.tenant_id = r.tenant_id and other.session_id = r.session_id
      and other.state in ('queued', 'running') and (other.ready or other.position < r.position)
    offset 0);  -- looked up run by run: the first few are wanted, and a join would look at all
