-- migrate:up

-- Steering: a message that reaches a run while the run works. It is stored as any message, with a run of its own that
-- waits behind the run that it steers. Until the steered run stops working, the message has no body in `messages`: its
-- runner takes the body from `steering` before a step, and the log then has it. When the run ends or is suspended, a
-- message that its log has (`taken`) is a part of its answer, and the waiting run is deleted. Any other message gets its
-- body back: its run is the next turn.

alter table runs
  -- The run that the message of this waiting run steers, and the message. No foreign key: both belong to one session.
  add column steers text,
  add column steering json,
  -- Whether the log of the steered run has the message. The log decides: its runner says here what it reads there.
  add column taken boolean not null default false,
  add constraint steering_waits check (steers is null or (state = 'queued' and not ready));

create index runs_steering on runs (steers, position) where steers is not null;

-- A message that an answer has as a part keeps its row, without a body, so that a repeated request is recognized.
alter table messages drop constraint messages_check;
alter table messages add constraint messages_check
  check (body is not null or role = 'assistant' or (role = 'user' and run_id is not null));

create or replace function run_json(r runs) returns json language sql stable as $$
  select json_build_object(
    'id', r.id, 'tenant', r.tenant_id, 'session', r.session_id, 'agent', r.agent, 'answer', r.answer_id,
    'state', r.state, 'ready', r.ready, 'turn', r.turn, 'attempt', r.attempt, 'error', r.error,
    'interrupted', r.interrupted_at is not null, 'user', r.user_id,
    'user_message', r.user_message_id, 'operation_set', r.operation_set, 'steers', r.steers,
    'usage', json_build_object('input_tokens', r.input_tokens, 'output_tokens', r.output_tokens))
$$;

-- Let the message of a new waiting run of a locked session steer the session's current run, unless one of them is
-- interrupted. At most 16 messages wait for one step (limits.STEERING_MAX).
create function steer_run(made runs) returns runs language plpgsql as $$
declare
  target runs := current_run(made.tenant_id, made.session_id);
  steered runs := made;
begin
  if target.id is null or target.id = made.id or target.interrupted_at is not null
    or made.interrupted_at is not null or made.ready
  then
    return made;
  end if;
  if (select count(*) from runs where steers = target.id and not taken) >= 16 then
    perform refuse('RJ429', 'the run has 16 steering messages that wait for its next step', 5);
  end if;
  update runs set steers = target.id, steering = (
    select body from messages
    where tenant_id = made.tenant_id and session_id = made.session_id and id = made.user_message_id)
  where id = made.id
  returning * into steered;
  perform hide_message(steered, made.id);
  return steered;
end
$$;

-- Take the body from the message of a steering run; its files stay in use. `p_run`: the run that answers it.
create function hide_message(r runs, p_run text) returns void language plpgsql as $$
declare
  bytes bigint;
begin
  select size_bytes into bytes from messages
  where tenant_id = r.tenant_id and session_id = r.session_id and id = r.user_message_id for no key update;
  update messages set body = null, run_id = p_run
  where tenant_id = r.tenant_id and session_id = r.session_id and id = r.user_message_id;
  perform grow_session(r.tenant_id, r.session_id, -coalesce(bytes, 0));
end
$$;

-- Store which steering messages of a run its log has. An interrupted one steers no more.
create function record_steering(p_run text, p_logged text[]) returns void language plpgsql as $$
begin
  update runs set taken = user_message_id = any (p_logged), updated_at = clock_timestamp()
  where steers = p_run and taken <> (user_message_id = any (p_logged));
  if found then
    update messages m set run_id = case when r.taken then p_run else r.id end
    from runs r
    where r.steers = p_run and m.tenant_id = r.tenant_id and m.session_id = r.session_id
      and m.id = r.user_message_id and m.body is null and m.run_id in (r.id, p_run);
  end if;
end
$$;

-- What a runner asks before a step: the messages that steer the run and that its log does not have, oldest first.
create function steering_of(p_run text, p_attempt integer, p_logged text[]) returns json language plpgsql as $$
begin
  if not exists (select from runs where steers = p_run) then
    return '[]';
  end if;
  perform lock_attempt(p_run, p_attempt);
  perform record_steering(p_run, p_logged);
  return (
    select coalesce(json_agg(steering order by position), '[]') from runs
    where steers = p_run and not taken and interrupted_at is null);
end
$$;

-- `claim_recent`, and the messages that steer the run, whether its log has them or not.
create function claim_steered(
  p_run text, p_turn integer, p_runner text, p_messages_max bigint, p_bytes_max bigint, p_inline_max bigint
) returns json language plpgsql as $$
declare
  claimed json := claim_recent(p_run, p_turn, p_runner, p_messages_max, p_bytes_max, p_inline_max);
begin
  return case when claimed is not null then json_build_array(claimed, (
    select coalesce(json_agg(steering order by position), '[]') from runs
    where steers = p_run and interrupted_at is null)) end;
end
$$;

-- A run stops working, with its session locked: its steering messages are in its answer or become the next turns.
create function settle_steering() returns trigger language plpgsql as $$
declare
  waiting runs;
begin
  for waiting in select * from runs where steers = new.id order by position loop
    -- Without its row, the message was deleted, by an edit of an earlier one.
    if waiting.taken or not exists (
      select from messages
      where tenant_id = new.tenant_id and session_id = new.session_id and id = waiting.user_message_id
        and body is null and role = 'user')
    then
      delete from messages
      where tenant_id = new.tenant_id and session_id = new.session_id and id = waiting.answer_id
        and run_id = waiting.id;
      delete from runs where id = waiting.id;
    else
      update messages set body = waiting.steering, run_id = waiting.id
      where tenant_id = new.tenant_id and session_id = new.session_id and id = waiting.user_message_id;
      update runs set steers = null, steering = null, updated_at = clock_timestamp() where id = waiting.id;
    end if;
  end loop;
  return null;
end
$$;

create trigger steering after update of state on runs for each row
  when (old.state in ('queued', 'running') and new.state not in ('queued', 'running'))
  execute function settle_steering();

create function suspend_run(
  p_run text, p_attempt integer, p_answer json, p_input_tokens bigint, p_output_tokens bigint, p_logged text[]
) returns json language plpgsql as $$
begin
  perform lock_attempt(p_run, p_attempt);
  perform record_steering(p_run, p_logged);
  return suspend_run(p_run, p_attempt, p_answer, p_input_tokens, p_output_tokens);
end
$$;

create function end_run(
  p_run text, p_attempt integer, p_state text, p_answer json, p_error json, p_input_tokens bigint,
  p_output_tokens bigint, p_logged text[]
) returns json language plpgsql as $$
begin
  perform lock_attempt(p_run, p_attempt);
  perform record_steering(p_run, p_logged);
  return end_run(p_run, p_attempt, p_state, p_answer, p_error, p_input_tokens, p_output_tokens);
end
$$;

-- As in 0003. With `steer`, a new message steers the session's current run. A message that is a part of an answer
-- cannot be edited.
create or replace function submit_run(
  p_tenant text, p_user text, p_session text, p_agent text, p_run text, p_answer text, p_key text,
  p_when_busy text, p_context bytea, p_remember boolean,
  p_message text, p_body json, p_digest bytea, p_edit boolean,
  p_import_ids text[], p_import_roles text[], p_import_bodies json[]
) returns json language plpgsql as $$
declare
  known messages;
  made runs;
  place bigint := cardinality(p_import_ids);
begin
  if open_session(p_tenant, p_user, p_session, p_agent, place + 2) then
    insert into messages (tenant_id, session_id, id, position, role, body)
    select p_tenant, p_session, i.id, i.number - 1, i.role, i.body
    from unnest(p_import_ids, p_import_roles, p_import_bodies) with ordinality as i (id, role, body, number)
    where i.id not in (p_message, p_answer)
    order by i.number
    on conflict (tenant_id, session_id, id) do nothing;
  else
    place := null;
    made := run_of_key(p_tenant, p_session, p_key, 'submit', p_message, p_digest);
    select * into known from messages
    where tenant_id = p_tenant and session_id = p_session and id = p_message;
  end if;
  if made.id is null and known.digest = p_digest then
    select * into made from runs where id = known.run_id;
  elsif made.id is null then
    if known.role <> 'user' then
      perform refuse('RJ409', 'the message id is taken by a message that is not the user''s');
    elsif known.id is not null and (not p_edit or known.body is null) then
      perform refuse('RJ409', case when p_edit
        then 'the message steers a run: edit an earlier one' else 'the message id is taken by other content' end);
    end if;
    if place is null then  -- else the session was made here, and nothing is in the way
      perform apply_when_busy(p_tenant, p_session, p_when_busy, known.position);
      place := take_positions(p_tenant, p_session, 2);
    end if;
    insert into messages (tenant_id, session_id, id, position, role, body, digest, run_id)
    values
      (p_tenant, p_session, p_message, place, 'user', p_body, p_digest, p_run),
      (p_tenant, p_session, p_answer, place + 1, 'assistant', null, null, p_run);
    made := add_run(
      p_tenant, p_session, p_agent, p_run, p_answer, place + 1, 'submit', p_message, p_key, p_message, p_digest,
      p_context, p_remember);
    if p_when_busy = 'steer' then
      made := steer_run(made);
    end if;
  end if;
  return admitted_json(made, p_run, p_when_busy);
end
$$;

-- As in 0003. A message that is a part of an answer, or waits to be one, is no message to answer again.
create or replace function regenerate_run(
  p_tenant text, p_user text, p_session text, p_agent text, p_run text, p_answer text, p_key text,
  p_when_busy text, p_context bytea, p_remember boolean,
  p_target text
) returns json language plpgsql as $$
declare
  target messages;
  asked messages;
  made runs;
  keep_to bigint;
  place bigint;
begin
  if not lock_session(p_tenant, p_user, p_session) then
    perform refuse('RJ404', 'there is no such message in the session');
  end if;
  perform check_agent(p_tenant, p_session, p_agent);
  made := run_of_key(p_tenant, p_session, p_key, 'regenerate', p_target, null);
  if made.id is null then  -- perhaps the same call again, after its answer was lost
    select * into made from runs where id = p_run and tenant_id = p_tenant and session_id = p_session;
  end if;
  if made.id is not null then
    return admitted_json(made, p_run, p_when_busy);
  end if;
  if p_target is not null then
    select * into target from messages
    where tenant_id = p_tenant and session_id = p_session and id = p_target
      and (body is not null or role = 'assistant');
    if not found then
      perform refuse('RJ404', 'there is no such message in the session');
    end if;
    keep_to := target.position - (target.role <> 'user')::int;
  end if;
  select * into asked from messages
  where tenant_id = p_tenant and session_id = p_session and role = 'user' and body is not null
    and position <= coalesce(keep_to, 9223372036854775807)
  order by position desc limit 1;
  if not found then
    perform refuse('RJ404', 'there is no message to answer again');
  end if;
  perform apply_when_busy(p_tenant, p_session, p_when_busy, coalesce(keep_to, asked.position) + 1);
  update messages set run_id = p_run
  where tenant_id = p_tenant and session_id = p_session and id = asked.id;
  place := take_positions(p_tenant, p_session, 1);
  insert into messages (tenant_id, session_id, id, position, role, run_id)
  values (p_tenant, p_session, p_answer, place, 'assistant', p_run);
  made := add_run(
    p_tenant, p_session, p_agent, p_run, p_answer, place, 'regenerate', asked.id, p_key, p_target, null,
    p_context, p_remember);
  return admitted_json(made, p_run, p_when_busy);
end
$$;

-- migrate:down

-- `submit_run` and `regenerate_run` stay as they are now: without `steer` they need nothing of what goes here. Messages
-- that wait become ordinary ones.

update messages m set body = r.steering, run_id = r.id from runs r
where r.steers is not null and m.tenant_id = r.tenant_id and m.session_id = r.session_id
  and m.id = r.user_message_id and m.body is null;
delete from messages where body is null and role = 'user';

create or replace function run_json(r runs) returns json language sql stable as $$
  select json_build_object(
    'id', r.id, 'tenant', r.tenant_id, 'session', r.session_id, 'agent', r.agent, 'answer', r.answer_id,
    'state', r.state, 'ready', r.ready, 'turn', r.turn, 'attempt', r.attempt, 'error', r.error,
    'interrupted', r.interrupted_at is not null, 'user', r.user_id,
    'user_message', r.user_message_id, 'operation_set', r.operation_set,
    'usage', json_build_object('input_tokens', r.input_tokens, 'output_tokens', r.output_tokens))
$$;

drop trigger steering on runs;
drop function end_run(text, integer, text, json, json, bigint, bigint, text[]);
drop function suspend_run(text, integer, json, bigint, bigint, text[]);
drop function settle_steering, claim_steered, steering_of, record_steering, hide_message, steer_run;
alter table messages drop constraint messages_check;
alter table messages add constraint messages_check check (body is not null or role = 'assistant');
alter table runs drop column taken, drop column steering, drop column steers;
