-- migrate:up

-- How large a session is, so that a limit can bound it and a reader can take its history page by page. The size of
-- a message is that of its body as JSON, in bytes; files are stored apart.

-- A limit among those of a tenant, else the default in the settings of this connection; null: no limit.
create function limit_in(p_limits jsonb, p_name text) returns bigint language sql stable as $$
  select coalesce((p_limits ->> p_name)::bigint, nullif(current_setting('rejoin.' || p_name, true), '')::bigint)
$$;

-- A limit of a tenant, which need not have a row.
create function limit_of(p_tenant text, p_name text) returns bigint language sql stable as $$
  select limit_in((select limits from tenants where id = p_tenant), p_name)
$$;

-- The callers have locked the session's row, or have made it.
create function grow_session(p_tenant text, p_session text, p_bytes bigint) returns bigint language sql as $$
  update sessions set size_bytes = greatest(size_bytes + p_bytes, 0)
  where tenant_id = p_tenant and id = p_session
  returning size_bytes
$$;

-- Refuse to add anything to a session that has p_total bytes with it. Whoever adds counts it first. An answer is stored
-- however large its session is; the next message is then refused.
create function check_session_size(p_tenant text, p_total bigint, p_what text default 'messages') returns void
language plpgsql as $$
declare
  total_max bigint := limit_of(p_tenant, 'session_bytes_max');
begin
  if p_total > total_max then
    perform refuse('RJ409', format(
      'the session would have %s bytes of %s, and has at most %s: begin a new session, or go back to an earlier '
      'message', p_total, p_what, total_max));
  end if;
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

create trigger sizes_gone after delete on messages
  referencing old table as old_messages for each statement execute function count_gone_messages();

-- The tools and options of a request count among the bytes of its session for as long as its run has them, so that the
-- limits of text bound them, too: session_bytes_max for each session, text_bytes_max and user_text_bytes_max for all
-- together. Whoever ends or deletes the run has locked the session's row.
create function request_bytes(r runs) returns bigint language sql immutable as $$
  select coalesce(octet_length(r.request_tools::text), 0) + coalesce(octet_length(r.request_options::text), 0)
$$;

create function count_gone_request() returns trigger language plpgsql as $$
begin
  perform grow_session(old.tenant_id, old.session_id, -request_bytes(old));
  return null;
end
$$;

create trigger request_gone after update of ended_at on runs for each row
  when (old.request_tools is not null or old.request_options is not null)
  execute function count_gone_request();
create trigger request_deleted after delete on runs for each row
  when (old.request_tools is not null or old.request_options is not null)
  execute function count_gone_request();

-- migrate:down

drop trigger request_deleted on runs;
drop trigger request_gone on runs;
drop function count_gone_request, request_bytes;
drop trigger sizes_gone on messages;
drop function count_gone_messages, check_session_size, grow_session, limit_of, limit_in;
