-- migrate:up

-- The transitions of rejoin_protocol.lifecycle. The trigger keeps any process from storing another transition. A
-- test compares the two tables.

-- The transitions of rejoin_protocol.lifecycle. The trigger keeps any process from storing another transition. A
-- test compares the two tables.
create table run_transitions (
  before text not null,
  after text not null,
  primary key (before, after)
);

insert into run_transitions (before, after) values
  ('queued', 'running'),
  ('running', 'running'),
  ('running', 'suspended'),
  ('running', 'completed'),
  ('running', 'failed'),
  ('running', 'cancelled'),
  ('suspended', 'queued'),
  ('suspended', 'cancelled');

create function refuse_transition() returns trigger language plpgsql as $$
begin
  if not exists (select from run_transitions where before = old.state and after = new.state) then
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
drop table run_transitions;
