"""The queries that read a session's messages page by page.

A page has at most so many messages, and at most so many bytes of JSON, unless its first message has more.
Bodies that do not fit are not read.
"""

HISTORY = """
select json_build_object(
  'agent', agent,
  'messages', (
    select coalesce(json_agg(body order by position), '[]') from shown_messages($1, session_key($1, $2, $3))
    where position > $4 and position <= page.last),
  'active_run', (
    select run_json(r) from current_run($1, session_key($1, $2, $3)) r where id is not null),
  'steering', (
    select coalesce(json_agg(steering order by position), '[]') from runs
    where tenant_id = $1 and session_id = session_key($1, $2, $3) and state = 'queued'
      and steers is not null and not taken and interrupted_at is null and $4 < 0),
  'created_at', created_at,
  'updated_at', updated_at,
  'next', case when page.more then page.last end)
from sessions, lateral (
  select max(position) filter (where place = 1 or bytes <= $5::bigint) as last,
    coalesce(bool_or(place > 1 and bytes > $5::bigint), false) as more
  from (
    select position, row_number() over oldest as place,
      sum(coalesce(size_bytes, octet_length(body::text))) over oldest as bytes
    from shown_messages($1, session_key($1, $2, $3)) where position > $4
    window oldest as (order by position)) sized) page
where tenant_id = $1 and ($2::text is null or user_id = $2) and id = session_key($1, $2, $3)
"""
"""`RunStore.history`: the oldest messages behind position $4, at most $5 bytes."""

EARLIER = """
select (
  select json_build_object(
    'messages', coalesce(json_agg(body order by position * $7) filter (where fits), '[]'),
    'more', not coalesce(bool_and(fits), true))
  from (
    select position, body, row_number() over listed = 1 or (row_number() over listed <= $6
      and sum(coalesce(size_bytes, octet_length(body::text))) over listed <= $8::bigint) as fits
    from (
      select position, body, size_bytes from shown_messages($1, session_key($1, $2, $3))
      where position < message.position
        and ($5::text is null or position * $7 > start.position * $7)
      order by position * $7 limit $6 + 1) found
    window listed as (order by position * $7)) page)
from messages message
left join messages start on start.tenant_id = $1 and start.session_id = session_key($1, $2, $3)
  and start.id = $5 and start.position < message.position
where message.tenant_id = $1 and message.session_id = session_key($1, $2, $3) and message.id = $4
  and ($5::text is null or start.id is not null)
  and exists (
    select from sessions where tenant_id = $1 and ($2::text is null or user_id = $2)
      and id = session_key($1, $2, $3))
"""
"""`RunStore.messages_before`: at most $6 messages and $8 bytes, in direction $7 (1 or -1)."""

NEWEST = """
select (
  select json_build_array(
    coalesce(
      json_agg(json_build_array(position, body, created_at) order by position)
        filter (where fits),
      '[]'),
    not coalesce(bool_and(fits), true))
  from (
    select position, body, created_at, row_number() over newest = 1 or (
      row_number() over newest <= $5
      and sum(coalesce(size_bytes, octet_length(body::text))) over newest <= $7::bigint) as fits
    from (
      select position, body, created_at, size_bytes from shown_messages($1, session_key($1, $2, $3))
      where $4::bigint is null or position < $4
      order by position desc limit $5 + 1 offset $6) m
    window newest as (order by position desc)) sized)
from sessions where tenant_id = $1 and ($2::text is null or user_id = $2) and id = session_key($1, $2, $3)
"""
"""`SessionStore.messages`: the newest before position $4 without $6, at most $5 messages and $7 bytes."""
