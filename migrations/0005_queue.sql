-- migrate:up

-- Which runs are ready. Limits bound the runs of a tenant and those of each of its users: concurrent ones (running_max,
-- user_running_max) and queued ones (queued_max, user_queued_max). A run waits until both its tenant and its user have a
-- place. A user without a place is in no other user's way: waiting runs are promoted in the order of their admission,
-- without those of full users.
--
-- A tenant that is far from its limits locks nothing: its row is locked once it may be the last place that is given
-- away. So a burst of so many admissions at the same moment, all by one tenant, may exceed a limit above 32.

create function count_ready(p_tenant text) returns bigint language sql stable as $$
  select count(*) from runs where tenant_id = p_tenant and ready and state in ('queued', 'running')
$$;

-- The runs that wait only for a place among their tenant's ready runs.
create view waiting_runs as
  select id, tenant_id, session_id, number, user_id from runs r
  where state = 'queued' and not ready and not exists (
    select from runs other
    where other.tenant_id = r.tenant_id and other.session_id = r.session_id
      and other.state in ('queued', 'running') and (other.ready or other.position < r.position)
    offset 0);  -- looked up run by run: the first few are wanted, and a join would look at all

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

-- How many more runs of a tenant, and of the user of a session, may be ready; null without a limit. p_session null: any
-- user. Locks the tenant's row unless many places are free: whoever gives the last ones away, and whoever frees the first
-- one, see each other.
create function lock_free_places(p_tenant text, p_session text) returns bigint language plpgsql as $$
declare
  most bigint;
  user_most bigint;
  home text;
  free bigint;
  user_free bigint;
begin
  select limit_in(limits, 'running_max'), limit_in(limits, 'user_running_max'), s.user_id into most, user_most, home
  from tenants t left join sessions s on s.tenant_id = t.id and s.id = p_session
  where t.id = p_tenant;
  for look in 1 .. 2 loop
    if most is not null or (user_most is not null and home is not null) then
      select most - count(*), case when home is not null then user_most - count(*) filter (where user_id = home) end
      into free, user_free from runs
      where tenant_id = p_tenant and ready and state in ('queued', 'running');
    end if;
    exit when look = 2 or ((free > 32) is not false and (user_free > 1) is not false);
    perform from tenants where id = p_tenant for no key update;
  end loop;
  return least(free, user_free);
end
$$;

-- Make the current run of a locked session ready, if its tenant has a place and no other run has waited longer.
-- Returns the request of the ready run if it waits for a claim. An interrupted run needs no place: a runner only
-- ends it.
create function promote_run(p_tenant text, p_session text) returns json language plpgsql as $$
declare
  -- Before the first read: the holder of the tenant's row may make runs of this session ready, too.
  places bigint := lock_free_places(p_tenant, p_session);
  first runs;
begin
  select * into first from runs
  where tenant_id = p_tenant and session_id = p_session and state in ('queued', 'running')
  order by ready desc, position limit 1;
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
create function promote_next(p_tenant text) returns json language plpgsql as $$
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

-- A run of a locked session has stopped working: promote the next run of the session, or else of the tenant. Returns its
-- request.
create function promote_freed(p_tenant text, p_session text) returns json language plpgsql as $$
declare
  request json := promote_run(p_tenant, p_session);
begin
  -- After the places were counted, and perhaps the tenant's row was locked.
  if request is null and exists (select from runs where tenant_id = p_tenant and state = 'queued' and not ready) then
    request := promote_next(p_tenant);
  end if;
  return request;
end
$$;

-- Promote runs for which a place became free without a promotion: a limit was raised or removed, or a ready run was
-- deleted. Since it never waits for a session's lock, it may hold several. Returns the requests.
create function promote_waiting(p_max bigint) returns json
language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
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

-- migrate:down

drop function promote_waiting, promote_freed, promote_next, promote_run, lock_free_places, promotable_runs, full_users;
drop view waiting_runs;
drop function count_ready;
