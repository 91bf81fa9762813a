-- migrate:up

-- The transitions of rejoin_protocol.lifecycle. The trigger keeps any process from storing another transition. A
-- test tries all pairs of states.

create function refuse_transition() returns trigger language plpgsql as $$
begin
  if (old.state, new.state) not in (
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
  return new;
end
$$;

create trigger lifecycle before update of state on runs
  for each row when (old.state is distinct from new.state)
  execute function refuse_transition();

-- migrate:down

drop trigger lifecycle on runs;
drop function refuse_transition;
