-- migrate:up

-- Two users of one tenant may both call a session `1`. A session's id is unique in the tenant: the first session of
-- that name has the name as its id, the sessions of other users have the name with a mark of their user behind it. No
-- stored id changes. rejoin_adapters/session_keys.py has the same rule, and takes the mark off for the user.

create function user_suffix(p_user text) returns text language sql immutable as $$
  select '~' || left(encode(sha256(convert_to(p_user, 'UTF8')), 'hex'), 16)
$$;

-- The id of the session that a user calls p_name, whether it exists or not. Without a user: that name, because it is an
-- id already.
create function session_key(p_tenant text, p_user text, p_name text) returns text language plpgsql stable as $$
declare
  marked text := p_name || user_suffix(p_user);
begin
  if marked is null then
    return p_name;
  elsif exists (select from sessions where tenant_id = p_tenant and id = marked and user_id = p_user)
    or exists (select from sessions where tenant_id = p_tenant and id = p_name and user_id is distinct from p_user)
  then
    return marked;
  end if;
  return p_name;
end
$$;

create function check_session_id() returns trigger language plpgsql as $$
begin
  if right(new.id, 17) is distinct from user_suffix(new.user_id) then
    perform refuse('RJ400', 'a session id does not end with ~ and 16 hexadecimal digits');
  end if;
  return new;
end
$$;

create trigger ids before insert on sessions
  for each row when (new.id ~ '~[0-9a-f]{16}$') execute function check_session_id();

-- migrate:down

drop trigger ids on sessions;
drop function check_session_id, session_key, user_suffix;
