-- migrate:up

-- Files and the messages that refer to them. Their bytes are in NATS (adapters/rejoin_adapters/files/chunk_store.py)
-- and are deleted an hour after the last reference. A process that stores a file or refers to it touches its row
-- first, and then has that hour to store the message. No foreign key to the tenant: the row must exist until a sweep
-- has deleted the bytes.
create table files (
  tenant_id text not null,
  id text not null,
  user_id text,
  size_bytes bigint not null,
  created_at timestamptz not null default clock_timestamp(),
  -- When it was last stored or announced as used.
  touched_at timestamptz not null default clock_timestamp(),
  -- Since when its bytes are being deleted. Until that is finished, it cannot be used or stored again.
  condemned_at timestamptz,
  primary key (tenant_id, id)
);

create index files_condemned on files (condemned_at) where condemned_at is not null;

create table file_uses (
  tenant_id text not null,
  session_id text not null,
  message_id text not null,
  file_id text not null,
  primary key (tenant_id, session_id, message_id, file_id),
  foreign key (tenant_id, file_id) references files on delete cascade,
  foreign key (tenant_id, session_id, message_id) references messages on delete cascade
);

create index file_uses_of_file on file_uses (tenant_id, file_id);

-- Files to be checked: a row for each touch and each deleted reference. Inserting rows takes no lock on other rows,
-- so concurrent deletions of sessions that share files cannot deadlock.
create table file_checks (
  number bigint primary key generated always as identity,
  tenant_id text not null,
  file_id text not null,
  since timestamptz not null default clock_timestamp()
);

create index file_checks_since on file_checks (since);

create table file_totals (
  tenant_id text primary key,
  size_bytes bigint not null
);

-- A message refers to files by URLs, each a whole JSON string in its body. A reference to another user's file does
-- not keep that file.
create function record_file_uses() returns trigger language plpgsql as $$
begin
  insert into file_uses (tenant_id, session_id, message_id, file_id)
  select new.tenant_id, new.session_id, new.id, f.id
  from files f join sessions s on s.tenant_id = f.tenant_id and s.id = new.session_id
  where f.tenant_id = new.tenant_id
    and f.id in (
      select named[1] from regexp_matches(
        new.body::text, '"/api/files/([0-9a-f]{16}-[0-9a-f]{64})"', 'g') as named)
    and (s.user_id is null or f.user_id is null or f.user_id = s.user_id)
  order by f.id for key share of f
  on conflict do nothing;
  return null;
end
$$;

create trigger files after insert or update of body on messages
  for each row when (position('"/api/files/' in new.body::text) > 0) execute function record_file_uses();

create function queue_file_check() returns trigger language plpgsql as $$
begin
  insert into file_checks (tenant_id, file_id) values (old.tenant_id, old.file_id);
  return null;
end
$$;

create trigger checks after delete on file_uses for each row execute function queue_file_check();

-- Announce the use of a file; false if it does not exist or is being deleted.
create function touch_file(p_tenant text, p_id text) returns boolean language plpgsql as $$
begin
  update files set touched_at = clock_timestamp()
  where tenant_id = p_tenant and id = p_id and condemned_at is null;
  if not found then
    return false;
  end if;
  insert into file_checks (tenant_id, file_id) values (p_tenant, p_id);
  return true;
end
$$;

-- Announce that a file will be stored, and store its reference if a message is given. False if it is being deleted.
create function keep_file(
  p_tenant text, p_id text, p_user text, p_size_bytes bigint, p_session text, p_message text
) returns boolean language plpgsql as $$
declare
  total bigint;
begin
  insert into files (tenant_id, id, user_id, size_bytes) values (p_tenant, p_id, p_user, p_size_bytes)
  on conflict do nothing;
  if found then
    insert into file_totals as t (tenant_id, size_bytes) values (p_tenant, p_size_bytes)
    on conflict (tenant_id) do update set size_bytes = t.size_bytes + excluded.size_bytes
    returning t.size_bytes into total;
    if total > limit_of(p_tenant, 'file_bytes_max') then
      perform refuse('RJ429', 'the tenant has as many bytes of files as it may: delete sessions that have some', 60);
    end if;
  end if;
  if not touch_file(p_tenant, p_id) then
    return false;
  end if;
  insert into file_uses (tenant_id, session_id, message_id, file_id)
  select tenant_id, session_id, id, p_id from messages
  where tenant_id = p_tenant and session_id = p_session and id = p_message for key share
  on conflict do nothing;
  return true;
end
$$;

-- Mark files without a reference that were not touched for p_age_s as being deleted. Returns them, together with
-- those whose deletion was not finished within p_again_s. `looked`: files examined; if p_max, there may be more.
create function condemn_files(p_age_s double precision, p_again_s double precision, p_max integer) returns json
language sql as $$
  with due as (
    delete from file_checks where number in (
      select number from file_checks where since < statement_timestamp() - p_age_s * interval '1 second'
      order by since limit p_max for update skip locked)
    returning tenant_id, file_id),
  candidates as (
    select tenant_id, file_id from due
    union
    (select tenant_id, id from files where condemned_at < statement_timestamp() - p_again_s * interval '1 second'
     order by condemned_at limit p_max)),
  condemned as (
    update files f set condemned_at = clock_timestamp()
    from candidates c
    where f.tenant_id = c.tenant_id and f.id = c.file_id
      and f.touched_at < statement_timestamp() - p_age_s * interval '1 second'
      and (f.condemned_at is null or f.condemned_at < statement_timestamp() - p_again_s * interval '1 second')
      and not exists (select from file_uses u where u.tenant_id = f.tenant_id and u.file_id = f.id)
    returning f.tenant_id, f.id, f.condemned_at)
  select json_build_object(
    'looked', (select count(*) from due),
    'condemned', (
      select coalesce(json_agg(json_build_object('tenant', tenant_id, 'id', id, 'condemned_at', condemned_at)), '[]')
      from condemned))
$$;

-- Delete the row of a file whose bytes are deleted, unless a later deletion has begun.
create function forget_file(p_tenant text, p_id text, p_condemned_at timestamptz) returns void
language sql as $$
  with gone as (
    delete from files where tenant_id = p_tenant and id = p_id and condemned_at = p_condemned_at
    returning size_bytes)
  update file_totals t set size_bytes = t.size_bytes - gone.size_bytes from gone where t.tenant_id = p_tenant
$$;

-- migrate:down

drop function forget_file, condemn_files, keep_file, touch_file;
drop trigger checks on file_uses;
drop function queue_file_check;
drop trigger files on messages;
drop function record_file_uses;
drop table file_totals, file_checks, file_uses, files;
