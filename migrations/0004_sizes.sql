-- migrate:up

-- How large a session is, so that a limit can bound it and a reader can take its history page by page. The size of
-- a message is that of its body as JSON, in bytes; files are stored apart.

-- A limit of a tenant, else the default in the settings of this connection; null: no limit.
create function limit_of(p_tenant text, p_name text) returns bigint language plpgsql stable as $$
begin
  return coalesce(
    (select (limits ->> p_name)::bigint from tenants where id = p_tenant),
    nullif(current_setting('rejoin.' || p_name, true), '')::bigint);
end
$$;

-- The callers have locked the session's row, or have made it.
create function grow_session(p_tenant text, p_session text, p_bytes bigint) returns bigint language sql as $$
  update sessions set size_bytes = greatest(size_bytes + p_bytes, 0)
  where tenant_id = p_tenant and id = p_session
  returning size_bytes
$$;

create function measure_message() returns trigger language plpgsql as $$
begin
  new.size_bytes := octet_length(new.body::text);
  return new;
end
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

create trigger size before insert or update of body on messages for each row execute function measure_message();
create trigger sizes_added after insert on messages
  referencing new table as new_messages for each statement execute function count_new_messages();
create trigger sizes_changed after update of body on messages
  for each row when (new.size_bytes <> coalesce(old.size_bytes, 0)) execute function count_changed_message();
create trigger sizes_gone after delete on messages
  referencing old table as old_messages for each statement execute function count_gone_messages();

-- The tools and options of a request count among the bytes of its session for as long as its run has them, so that the
-- limits of text bound them, too: session_bytes_max for each session, text_bytes_max and user_text_bytes_max for all
-- together. Whoever gives a run its tools, and whoever ends or deletes it, has locked the session's row, or has made it.
create function request_bytes(r runs) returns bigint language sql immutable as $$
  select coalesce(octet_length(r.request_tools::text), 0) + coalesce(octet_length(r.request_options::text), 0)
$$;

create function count_request_bytes() returns trigger language plpgsql as $$
declare
  added bigint := case when tg_op = 'DELETE' then 0 else request_bytes(new) end - request_bytes(old);
  total bigint := grow_session(old.tenant_id, old.session_id, added);
  total_max bigint := limit_of(old.tenant_id, 'session_bytes_max');
begin
  if added > 0 and total > total_max then
    perform refuse('RJ409', format(
      'the session would have %s bytes of messages, tools and options, and has at most %s: begin a new session, or go back '
      'to an earlier message', total, total_max));
  end if;
  return null;
end
$$;

create trigger request_bytes after update on runs for each row
  when ((old.request_tools is null, old.request_options is null)
    is distinct from (new.request_tools is null, new.request_options is null))
  execute function count_request_bytes();
create trigger deleted_request_bytes after delete on runs for each row
  when (old.request_tools is not null or old.request_options is not null)
  execute function count_request_bytes();

-- migrate:down

drop trigger deleted_request_bytes on runs;
drop trigger request_bytes on runs;
drop function count_request_bytes, request_bytes;
drop trigger sizes_gone on messages;
drop trigger sizes_changed on messages;
drop trigger sizes_added on messages;
drop trigger size on messages;
drop function count_gone_messages, count_changed_message, count_new_messages, measure_message, grow_session, limit_of;
