-- migrate:up

-- The rules of a run's row: which states follow each other, as in rejoin_protocol.lifecycle, and which columns go together.
-- The trigger keeps any process from storing anything else. Tests try all pairs of states, and break each rule.
--
-- Not checks of the table and a condition of the trigger, because PostgreSQL parses those anew for each statement.

create function check_run() returns trigger language plpgsql as $$
declare
  broken text;
begin
  if tg_op = 'UPDATE' and old.state <> new.state and (old.state, new.state) not in (
    ('queued', 'running'),
    ('running', 'suspended'),
    ('running', 'completed'),
    ('running', 'failed'),
    ('running', 'cancelled'),
    ('suspended', 'queued'),
    ('suspended', 'cancelled'))
  then
    raise exception using
      errcode = 'RJ409', message = format('a %s run cannot become %s', old.state, new.state);
  end if;
  broken := case
    when (new.ended_at is not null) <> (new.state in ('completed', 'failed', 'cancelled')) then 'ended_is_terminal'
    when not new.ready and new.state <> 'queued' then 'waiting_is_queued'
    when new.state <> 'queued' and new.attempt < 1 then 'begun_was_claimed'
    when new.due_at is not null and not (new.ready and new.state in ('queued', 'running')) then 'due_is_ready'
    when new.ended_at is not null and not (
      new.context is null and new.request_tools is null and new.request_options is null) then 'ended_keeps_no_context'
    when new.interrupted_at is not null and new.state = 'suspended' then 'interrupted_goes_on'
    when new.steers is not null and (new.state <> 'queued' or new.ready) then 'steering_waits'
  end;
  if broken is not null then
    raise check_violation using
      constraint = broken, table = 'runs', message = format('a run would violate the rule "%s"', broken);
  end if;
  return new;
end
$$;

create trigger lifecycle before insert or update on runs for each row execute function check_run();

-- migrate:down

drop trigger lifecycle on runs;
drop function check_run;
