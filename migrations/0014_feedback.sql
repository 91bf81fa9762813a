-- migrate:up

-- Feedback on answers, and events that clients report. Both are read by session, newest first. Ids are unique for
-- their owner, so an id does not reveal that another owner uses it.
create table feedback (
  number bigint primary key generated always as identity,
  tenant_id text not null,
  user_id text,  -- who gave it; null: the tenant
  id text not null,
  session_id text not null,
  agent text not null,  -- the session's
  message_id text,  -- no foreign key: feedback on a message stays when the message is replaced
  type text not null check (type in ('positive', 'negative')),
  details json,
  created_at timestamptz not null,
  unique nulls not distinct (tenant_id, user_id, id),
  foreign key (tenant_id, session_id) references sessions on delete cascade
);

create index feedback_of_tenant on feedback (tenant_id, number);
create index feedback_of_user on feedback (tenant_id, user_id, number) where user_id is not null;
create index feedback_of_session on feedback (tenant_id, session_id, number);

-- No foreign key to the session: clients choose session ids, and report events before their first message is sent.
create table client_events (
  number bigint primary key generated always as identity,
  tenant_id text not null references tenants on delete cascade,
  user_id text,
  id text not null,
  type text not null,
  agent text,
  session_id text,
  message_id text,
  properties json,
  user_properties json,
  metadata json,
  created_at timestamptz not null,
  unique nulls not distinct (tenant_id, user_id, id)
);

create index client_events_of_tenant on client_events (tenant_id, number);
create index client_events_of_user on client_events (tenant_id, user_id, number) where user_id is not null;
create index client_events_of_session on client_events (tenant_id, session_id, number) where session_id is not null;
create index client_events_age on client_events (created_at);

create function forget_client_events() returns trigger language plpgsql as $$
begin
  delete from client_events where tenant_id = old.tenant_id and session_id = old.id;
  return null;
end
$$;

create trigger client_events after delete on sessions for each row execute function forget_client_events();

-- store_types.Feedback.
create function feedback_json(f feedback) returns json language sql stable as $$
  select json_build_object(
    'id', f.id, 'session', f.session_id, 'agent', f.agent, 'message', f.message_id, 'type', f.type,
    'details', f.details, 'user', f.user_id, 'created_at', f.created_at)
$$;

-- store_types.ClientEvent.
create function client_event_json(e client_events) returns json language sql stable as $$
  select json_build_object(
    'id', e.id, 'type', e.type, 'agent', e.agent, 'session', e.session_id, 'message', e.message_id,
    'properties', e.properties, 'user_properties', e.user_properties, 'metadata', e.metadata,
    'user', e.user_id, 'created_at', e.created_at)
$$;

-- The feedback as it is stored, and whether it is new: an id that its owner has used already stores nothing.
-- p_agent: the one agent that the caller may use; null: any.
create function add_feedback(
  p_tenant text, p_user text, p_agent text, p_id text, p_session text, p_message text, p_type text,
  p_details json, p_created_at timestamptz, p_max integer
) returns json language plpgsql as $$
declare
  home text;
  stored feedback;
begin
  select agent into home from sessions
  where tenant_id = p_tenant and id = p_session and (p_user is null or user_id = p_user)
    and (p_agent is null or agent = p_agent)
  for key share;
  if not found then
    perform refuse('RJ404', 'there is no such session');
  end if;
  select * into stored from feedback
  where tenant_id = p_tenant and user_id is not distinct from p_user and id = p_id;
  if found then
    return json_build_object('stored', feedback_json(stored), 'created', false);
  end if;
  if p_message is not null then
    perform from messages where tenant_id = p_tenant and session_id = p_session and id = p_message;
    if not found then
      perform refuse('RJ404', 'there is no such message in the session');
    end if;
  end if;
  if (select count(*) from feedback where tenant_id = p_tenant and session_id = p_session) >= p_max then
    perform refuse('RJ409', 'the session has as much feedback as it may have');
  end if;
  insert into feedback (tenant_id, user_id, id, session_id, agent, message_id, type, details, created_at)
  values (p_tenant, p_user, p_id, p_session, home, p_message, p_type, p_details, p_created_at)
  on conflict do nothing returning * into stored;
  if found then
    return json_build_object('stored', feedback_json(stored), 'created', true);
  end if;
  -- The same id at the same moment.
  select * into stored from feedback
  where tenant_id = p_tenant and user_id is not distinct from p_user and id = p_id;
  return json_build_object('stored', feedback_json(stored), 'created', false);
end
$$;

-- The event as it is stored, and whether it is new. A tenant keeps its newest p_max events, and a few more:
-- older ones are deleted at every p_often-th event.
create function add_client_event(
  p_tenant text, p_user text, p_id text, p_type text, p_agent text, p_session text, p_message text,
  p_properties json, p_user_properties json, p_metadata json, p_created_at timestamptz, p_max integer,
  p_often integer
) returns json language plpgsql as $$
declare
  stored client_events;
begin
  insert into client_events (
    tenant_id, user_id, id, type, agent, session_id, message_id, properties, user_properties, metadata, created_at)
  values (
    p_tenant, p_user, p_id, p_type, p_agent, p_session, p_message, p_properties, p_user_properties, p_metadata,
    p_created_at)
  on conflict do nothing returning * into stored;
  if not found then
    select * into stored from client_events
    where tenant_id = p_tenant and user_id is not distinct from p_user and id = p_id;
    return json_build_object('stored', client_event_json(stored), 'created', false);
  end if;
  if stored.number % p_often = 0 then
    delete from client_events
    where tenant_id = p_tenant and number <= (
      select number from client_events where tenant_id = p_tenant order by number desc offset p_max limit 1);
  end if;
  return json_build_object('stored', client_event_json(stored), 'created', true);
end
$$;

-- migrate:down

drop function add_client_event, add_feedback, client_event_json, feedback_json;
drop trigger client_events on sessions;
drop function forget_client_events;
drop table client_events, feedback;
