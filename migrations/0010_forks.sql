-- migrate:up

-- For a session's forks, and the forks of those.
create index sessions_of_source on sessions (tenant_id, forked_from) where forked_from is not null;

-- Whether a session is a fork of one that still exists. The id of a deleted session may be given again, even to a
-- fork of its own fork, so a session that is newer than its fork is not the one that was forked.
create function is_fork(s sessions) returns boolean language sql stable as $$
  select s.forked_from is not null and exists (
    select from sessions source
    where source.tenant_id = s.tenant_id and source.id = s.forked_from and source.created_at <= s.created_at)
$$;

-- migrate:down

drop function is_fork;
drop index sessions_of_source;
