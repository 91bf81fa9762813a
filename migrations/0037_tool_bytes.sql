-- migrate:up

-- The tools of a request count among the bytes of its session for as long as its run has them, so that the limits of
-- text bound them, too: session_bytes_max for each session, text_bytes_max and user_text_bytes_max for all together.
-- Whoever gives a run its tools, and whoever ends it, has locked the session's row, or has made it.
create function count_request_tools() returns trigger language plpgsql as $$
declare
  added bigint := coalesce(octet_length(new.request_tools::text), 0)
    - coalesce(octet_length(old.request_tools::text), 0);
  total bigint := grow_session(new.tenant_id, new.session_id, added);
  total_max bigint := limit_of(new.tenant_id, 'session_bytes_max');
begin
  if added > 0 and total > total_max then
    perform refuse('RJ409', format(
      'the session would have %s bytes of messages and tools, and has at most %s: begin a new session, or go back '
      'to an earlier message', total, total_max));
  end if;
  return null;
end
$$;

create trigger tool_bytes after update on runs for each row
  when ((old.request_tools is null) <> (new.request_tools is null))
  execute function count_request_tools();

update sessions s set size_bytes = s.size_bytes + held.bytes from (
  select tenant_id, session_id, sum(octet_length(request_tools::text)) as bytes from runs
  where request_tools is not null group by tenant_id, session_id) held
where s.tenant_id = held.tenant_id and s.id = held.session_id;

-- migrate:down

update sessions s set size_bytes = greatest(s.size_bytes - held.bytes, 0) from (
  select tenant_id, session_id, sum(octet_length(request_tools::text)) as bytes from runs
  where request_tools is not null group by tenant_id, session_id) held
where s.tenant_id = held.tenant_id and s.id = held.session_id;

drop trigger tool_bytes on runs;
drop function count_request_tools;
