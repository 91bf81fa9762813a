-- migrate:up

-- The tools and options of a request count among the bytes of its session for as long as its run has them, so that the
-- limits of text bound them, too: session_bytes_max for each session, text_bytes_max and user_text_bytes_max for all together.
-- Whoever gives a run its tools, and whoever ends or deletes it, has locked the session's row, or has made it.
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

update sessions s set size_bytes = s.size_bytes + held.bytes from (
  select tenant_id, session_id, sum(request_bytes(r)) as bytes from runs r
  where request_tools is not null or request_options is not null group by tenant_id, session_id) held
where s.tenant_id = held.tenant_id and s.id = held.session_id;

-- migrate:down

update sessions s set size_bytes = greatest(s.size_bytes - held.bytes, 0) from (
  select tenant_id, session_id, sum(request_bytes(r)) as bytes from runs r
  where request_tools is not null or request_options is not null group by tenant_id, session_id) held
where s.tenant_id = held.tenant_id and s.id = held.session_id;

drop trigger deleted_request_bytes on runs;
drop trigger request_bytes on runs;
drop function count_request_bytes, request_bytes;
