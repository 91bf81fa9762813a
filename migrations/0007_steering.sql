-- migrate:up

-- Steering: a message that reaches a run while the run works. It is stored as any message, with a run of its own that
-- waits behind the run that it steers. Until the steered run stops working, the message has no body in `messages`: its
-- runner takes the body from `runs.steering` before a step, and the log then has it. When the run ends or is suspended, a
-- message that its log has (`taken`) is a part of its answer, and the waiting run is deleted. Any other message gets its
-- body back: its run is the next turn.

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

-- Store which steering messages of a run its log has. An interrupted one steers no more. False if there are none.
create function record_steering(p_run text, p_logged text[]) returns boolean language plpgsql as $$
begin
  if not exists (select from runs where steers = p_run) then
    return false;
  end if;
  update runs set taken = user_message_id = any (p_logged), updated_at = clock_timestamp()
  where steers = p_run and taken <> (user_message_id = any (p_logged));
  if found then
    update messages m set run_id = case when r.taken then p_run else r.id end
    from runs r
    where r.steers = p_run and m.tenant_id = r.tenant_id and m.session_id = r.session_id
      and m.id = r.user_message_id and m.body is null and m.run_id in (r.id, p_run);
  end if;
  return true;
end
$$;

-- What a runner asks before a step: the messages that steer the run and that its log does not have, oldest first.
create function steering_of(p_run text, p_attempt integer, p_logged text[]) returns json
language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
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

-- A run of a locked session stops working: its steering messages are in its answer or become the next turns.
create function settle_steering(steered runs) returns void language plpgsql as $$
declare
  waiting runs;
  bytes bigint;
begin
  for waiting in select * from runs where steers = steered.id order by position loop
    -- Without its row, the message was deleted, by an edit of an earlier one.
    if waiting.taken or not exists (
      select from messages
      where tenant_id = steered.tenant_id and session_id = steered.session_id and id = waiting.user_message_id
        and body is null and role = 'user')
    then
      delete from messages
      where tenant_id = steered.tenant_id and session_id = steered.session_id and id = waiting.answer_id
        and run_id = waiting.id;
      delete from runs where id = waiting.id;
    else
      update messages set body = waiting.steering, run_id = waiting.id
      where tenant_id = steered.tenant_id and session_id = steered.session_id and id = waiting.user_message_id
      returning size_bytes into bytes;
      perform grow_session(steered.tenant_id, steered.session_id, bytes);
      update runs set steers = null, steering = null, updated_at = clock_timestamp() where id = waiting.id;
    end if;
  end loop;
end
$$;

-- migrate:down

drop function settle_steering, steering_of, record_steering, hide_message, steer_run;
