-- migrate:up

-- Deletion. Deleting a session deletes its runs; their logs in NATS must be deleted, too. Deleting a run stores its id
-- here until a runner's sweep has purged its log.
--
-- Deletion in batches: no statement deletes many rows or bytes at once, however large a session is. A session that is too
-- large for a batch first loses its oldest messages, runs, artifacts and events, and then the rest in one go; whoever is
-- interrupted in between goes on with what is left.

create table purges (
  run_id text primary key,
  due_at timestamptz not null default clock_timestamp(),
  -- Purged once already. The second purge deletes what a runner has appended meanwhile; it is the last.
  again boolean not null default false
);

create index purges_due on purges (due_at);

create function purge_run() returns trigger language plpgsql as $$
begin
  insert into purges (run_id) values (old.id) on conflict do nothing;
  return null;
end
$$;

create trigger purges after delete on runs for each row execute function purge_run();

-- Returns the ids of the session's runs, whose logs are purged later.
create function delete_session(p_tenant text, p_user text, p_session text) returns json language plpgsql as $$
declare
  gone json;
begin
  if not lock_session(p_tenant, p_user, p_session) then
    return null;
  end if;
  select coalesce(json_agg(id order by position), '[]') into gone from runs
  where tenant_id = p_tenant and session_id = p_session;
  delete from sessions where tenant_id = p_tenant and id = p_session;
  return gone;
end
$$;

-- How many messages, runs, artifacts or events of a session are left, counted up to p_max.
create function count_rows(p_tenant text, p_session text, p_max bigint) returns bigint language sql stable as $$
  select greatest(
    (select count(*) from (
      select from messages where tenant_id = p_tenant and session_id = p_session limit p_max) m),
    (select count(*) from (select from runs where tenant_id = p_tenant and session_id = p_session limit p_max) r),
    (select count(*) from (
      select from artifacts where tenant_id = p_tenant and session_id = p_session limit p_max) a),
    (select count(*) from (
      select from client_events where tenant_id = p_tenant and session_id = p_session limit p_max) e))
$$;

-- Delete the oldest rows of a locked session: at most p_rows of each table, and of messages at most p_bytes, but one.
create function trim_session(p_tenant text, p_session text, p_rows bigint, p_bytes bigint) returns void
language plpgsql as $$
begin
  delete from messages m using (
    select id, coalesce(sum(size_bytes) over (order by position rows unbounded preceding), 0) as bytes, number
    from (
      select id, position, size_bytes, row_number() over (order by position) as number from messages
      where tenant_id = p_tenant and session_id = p_session order by position limit p_rows) oldest) old
  where m.tenant_id = p_tenant and m.session_id = p_session and m.id = old.id
    and (old.bytes <= p_bytes or old.number = 1);
  -- A run goes with those that steer it: without it, they could never be promoted.
  with oldest as (
    select id from runs where tenant_id = p_tenant and session_id = p_session order by position limit p_rows)
  delete from runs where id in (select id from oldest union all
    select id from runs where steers in (select id from oldest));
  delete from artifacts where tenant_id = p_tenant and id in (
    select id from artifacts where tenant_id = p_tenant and session_id = p_session order by created_at limit p_rows);
  delete from client_events where number in (
    select number from client_events where tenant_id = p_tenant and session_id = p_session order by number limit p_rows);
end
$$;

-- Delete sessions that the caller has locked, as many as fit into one batch, or a part of the first. Returns how many,
-- and whether the batch was full.
create function delete_batch(p_sessions sessions[], p_rows bigint, p_bytes bigint) returns json language plpgsql as $$
declare
  one sessions;
  ids text[] := '{}';
  tenants text[] := '{}';
  rows_left bigint := p_rows;
  bytes_left bigint := p_bytes;
  found_rows bigint;
begin
  foreach one in array p_sessions loop
    found_rows := count_rows(one.tenant_id, one.id, p_rows + 1);
    if found_rows > rows_left or (found_rows > 0 and one.size_bytes > bytes_left) then
      if cardinality(ids) = 0 then
        perform trim_session(one.tenant_id, one.id, p_rows, p_bytes);
        return json_build_array(0, true);
      end if;
      exit;
    end if;
    ids := ids || one.id;
    tenants := tenants || one.tenant_id;
    rows_left := rows_left - found_rows;
    bytes_left := bytes_left - one.size_bytes;
  end loop;
  delete from sessions s using unnest(tenants, ids) due (tenant_id, id)
  where s.tenant_id = due.tenant_id and s.id = due.id;
  return json_build_array(cardinality(ids), cardinality(ids) < cardinality(p_sessions));
end
$$;

-- Sessions that have not changed for p_age_s, up to p_max.
create function expire_batch(p_age_s double precision, p_max bigint, p_rows bigint, p_bytes bigint) returns json
language plpgsql as $$
declare
  due sessions[] := array(
    select old.s from tenants t cross join lateral (
      select s from sessions s
      where tenant_id = t.id and updated_at < clock_timestamp() - p_age_s * interval '1 second'
        and not session_busy(tenant_id, id)
      order by updated_at limit p_max for update skip locked) old
    limit p_max);
  deleted json := delete_batch(due, p_rows, p_bytes);
begin
  return json_build_array(deleted -> 0, (deleted ->> 1)::boolean or cardinality(due) = p_max);
end
$$;

create function forget_batch(p_tenant text, p_user text, p_max bigint, p_rows bigint, p_bytes bigint) returns json
language plpgsql as $$
declare
  due sessions[] := array(
    select s from sessions s where tenant_id = p_tenant and user_id = p_user order by id limit p_max for update);
  deleted json := delete_batch(due, p_rows, p_bytes);
begin
  return json_build_array(deleted -> 0, (deleted ->> 1)::boolean or cardinality(due) = p_max);
end
$$;

-- migrate:down

drop function forget_batch, expire_batch, delete_batch, trim_session, count_rows, delete_session;
drop trigger purges on runs;
drop function purge_run;
drop table purges;
