-- migrate:up

-- Sessions that are forked or rewound. A fork remembers its origin, so that a repeated fork returns the same session.

-- Whether a session is a fork of one that still exists. The id of a deleted session may be given again, even to a
-- fork of its own fork, so a session that is newer than its fork is not the one that was forked.
create function is_fork(s sessions) returns boolean language sql stable as $$
  select s.forked_from is not null and exists (
    select from sessions source
    where source.tenant_id = s.tenant_id and source.id = s.forked_from and source.created_at <= s.created_at)
$$;

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

-- Lock a session, and find the position of a message in it.
create function lock_position(p_tenant text, p_user text, p_session text, p_message text) returns bigint
language plpgsql as $$
declare
  found_at bigint;
begin
  if not lock_session(p_tenant, p_user, p_session) then
    perform refuse('RJ404', 'there is no such session');
  end if;
  select position into found_at from messages
  where tenant_id = p_tenant and session_id = p_session and id = p_message;
  if not found then
    perform refuse('RJ404', 'there is no such message in the session');
  end if;
  return found_at;
end
$$;

-- Copies messages with their ids and positions, but without their runs.
create function fork_session(p_tenant text, p_user text, p_session text, p_message text, p_into text) returns json
language plpgsql as $$
declare
  source sessions;
  made sessions;
  cut bigint := lock_position(p_tenant, p_user, p_session, p_message);
  bytes bigint;
begin
  select * into source from sessions where tenant_id = p_tenant and id = p_session;
  insert into sessions (
    tenant_id, id, agent, user_id, title, metadata, next_position, forked_from, forked_before)
  values (
    p_tenant, p_into, source.agent, source.user_id, source.title, source.metadata, cut, p_session, p_message)
  on conflict do nothing
  returning * into made;
  if found then
    with copied as (
      insert into messages (tenant_id, session_id, id, position, role, body, created_at)
      select p_tenant, p_into, id, position, role, body, created_at
      from shown_messages(p_tenant, p_session) where position < cut
      returning size_bytes)
    select grow_session(p_tenant, p_into, sum(size_bytes)::bigint) into bytes from copied having count(*) > 0;
    perform check_session_size(p_tenant, bytes);
  else
    select * into made from sessions
    where tenant_id = p_tenant and id = p_into and forked_from = p_session and forked_before = p_message
      and user_id is not distinct from source.user_id;
    if not found then
      perform refuse('RJ409', 'the session id is taken');
    end if;
  end if;
  return thread_json(made);
end
$$;

-- Delete the messages after a message.
create function rewind_session(p_tenant text, p_user text, p_session text, p_message text) returns json
language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
  kept bigint := lock_position(p_tenant, p_user, p_session, p_message);
begin
  perform apply_when_busy(p_tenant, p_session, 'reject', kept + 1);
  return (select thread_json(s) from sessions s where tenant_id = p_tenant and id = p_session);
end
$$;

-- migrate:down

drop function rewind_session, fork_session;
drop trigger forks on sessions;
drop function lock_position, limit_forks, is_fork;
