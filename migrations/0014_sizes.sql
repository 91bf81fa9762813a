-- migrate:up

-- How large a session is, so that a limit can bound it and a reader can take its history page by page. The size of
-- a message is that of its body as JSON, in bytes; files are stored apart. Messages of older versions have none and
-- do not count.

alter table messages add column size_bytes bigint;
alter table sessions add column size_bytes bigint not null default 0;

create function measure_message() returns trigger language plpgsql as $$
begin
  new.size_bytes := octet_length(new.body::text);
  return new;
end
$$;

create trigger size before insert or update of body on messages for each row execute function measure_message();

-- The callers have locked the session's row, or have made it.
create function grow_session(p_tenant text, p_session text, p_bytes bigint) returns bigint language sql as $$
  update sessions set size_bytes = greatest(size_bytes + p_bytes, 0)
  where tenant_id = p_tenant and id = p_session
  returning size_bytes
$$;

-- An answer is stored however large its session is; the next message is then refused.
create function count_new_messages() returns trigger language plpgsql as $$
declare
  added record;
  total bigint;
  total_max bigint;
begin
  for added in
    select tenant_id, session_id, sum(size_bytes)::bigint as bytes from new_messages
    group by tenant_id, session_id having sum(size_bytes) > 0
  loop
    total := grow_session(added.tenant_id, added.session_id, added.bytes);
    total_max := limit_of(added.tenant_id, 'session_bytes_max');
    if total > total_max then
      perform refuse('RJ409', format(
        'the session would have %s bytes of messages, and has at most %s: begin a new session, or go back to an '
        'earlier message', total, total_max));
    end if;
  end loop;
  return null;
end
$$;

create function count_changed_message() returns trigger language plpgsql as $$
begin
  perform grow_session(new.tenant_id, new.session_id, new.size_bytes - coalesce(old.size_bytes, 0));
  return null;
end
$$;

create function count_gone_messages() returns trigger language plpgsql as $$
begin
  perform grow_session(tenant_id, session_id, -bytes) from (
    select tenant_id, session_id, sum(size_bytes)::bigint as bytes from old_messages
    group by tenant_id, session_id) gone
  where bytes > 0;
  return null;
end
$$;

create trigger sizes_added after insert on messages
  referencing new table as new_messages for each statement execute function count_new_messages();
create trigger sizes_changed after update of body on messages
  for each row when (new.size_bytes <> coalesce(old.size_bytes, 0)) execute function count_changed_message();
create trigger sizes_gone after delete on messages
  referencing old table as old_messages for each statement execute function count_gone_messages();

-- A fork copies all text of a session with one small request.
create function limit_forks() returns trigger language plpgsql as $$
declare
  text_max bigint := limit_of(new.tenant_id, 'text_bytes_max');
  user_text_max bigint := limit_of(new.tenant_id, 'user_text_bytes_max');
begin
  if exists (select from sessions where tenant_id = new.tenant_id and id = new.id) then
    return new;  -- perhaps the same fork again
  elsif text_max <= (select sum(size_bytes) from sessions where tenant_id = new.tenant_id) then
    perform refuse('RJ429', format(
      'the sessions of the tenant have more than %s bytes of text: delete some before you fork others', text_max), 60);
  elsif user_text_max <= (
    select sum(size_bytes) from sessions where tenant_id = new.tenant_id and user_id = new.user_id)
  then
    perform refuse('RJ429', format(
      'your sessions have more than %s bytes of text: delete some before you fork others', user_text_max), 60);
  end if;
  return new;
end
$$;

create trigger forks before insert on sessions
  for each row when (new.forked_from is not null) execute function limit_forks();

create function history_from(p_run text, p_first bigint) returns json language sql stable as $$
  select coalesce(json_agg(m.body order by m.position), '[]')
  from runs r join messages m on m.tenant_id = r.tenant_id and m.session_id = r.session_id
  where r.id = p_run and m.position >= p_first and m.position < r.position and m.body is not null
$$;

-- `claim_run`, with the newest messages that fit: whole turns, so that the first one is a user's message. At least
-- one message is taken. The claim, these messages, the position of the first of them, their size, and whether older
-- ones were left out, of which no body is read. Larger messages than p_inline_max are read later.
create function claim_recent(
  p_run text, p_turn integer, p_runner text, p_messages_max bigint, p_bytes_max bigint, p_inline_max bigint
) returns json language plpgsql as $$
declare
  claimed json := claim_run(p_run, p_turn, p_runner, 0);
  mine runs;
  one record;
  first bigint;
  bytes bigint := 0;
  fitting bigint := 0;
  taken bigint := 0;
  cut boolean := false;
begin
  if claimed is null then
    return null;
  end if;
  select * into mine from runs where id = p_run;
  for one in
    select position, coalesce(size_bytes, octet_length(body::text)) as size from messages
    where tenant_id = mine.tenant_id and session_id = mine.session_id and position < mine.position
      and body is not null
    order by position desc
  loop
    bytes := bytes + one.size;
    taken := taken + 1;
    cut := taken > 1 and (coalesce(bytes > p_bytes_max, false) or coalesce(taken > p_messages_max, false));
    exit when cut;
    first := one.position;
    fitting := bytes;
  end loop;
  if cut then
    select min(position) into first from messages
    where tenant_id = mine.tenant_id and session_id = mine.session_id and role = 'user'
      and position >= first and position < mine.position;
    select sum(coalesce(size_bytes, octet_length(body::text))) into fitting from messages
    where tenant_id = mine.tenant_id and session_id = mine.session_id and position >= first
      and position < mine.position and body is not null;
  end if;
  return json_build_array(
    claimed,
    case when fitting <= p_inline_max then history_from(mine.id, first) else '[]' end,
    coalesce(first, 0), fitting, cut);
end
$$;

-- migrate:down

drop function claim_recent, history_from;
drop trigger forks on sessions;
drop function limit_forks;
drop trigger sizes_gone on messages;
drop trigger sizes_changed on messages;
drop trigger sizes_added on messages;
drop trigger size on messages;
drop function count_gone_messages, count_changed_message, count_new_messages, grow_session, measure_message;
alter table sessions drop column size_bytes;
alter table messages drop column size_bytes;
