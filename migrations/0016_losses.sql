-- migrate:up

-- The attempts of a run that ended without a word of their runner: its process died or its event loop was blocked. A
-- runner decides from them whether it executes the run beside others.
create table run_losses (
  run_id text not null references runs on delete cascade,
  attempt integer not null,
  cause text not null default 'silent' check (cause in ('silent', 'blocked', 'died')),
  code text,
  call_id text,
  seconds double precision,
  primary key (run_id, attempt)
);

-- The newest attempt that its runner has ended itself: such an attempt is no loss.
alter table runs add column released_attempt integer not null default 0;

-- A claim takes over a run whose attempt was not released. A run that waits for a claim has a due time.
create function record_loss() returns trigger language plpgsql as $$
begin
  insert into run_losses (run_id, attempt) values (old.id, old.attempt) on conflict do nothing;
  return null;
end
$$;

create trigger run_loss after update of attempt on runs for each row
when (old.state = 'running' and old.due_at is null and old.attempt > old.released_attempt
  and new.attempt > old.attempt)
execute function record_loss();

-- migrate:down

drop trigger run_loss on runs;
drop function record_loss;
alter table runs drop column released_attempt;
drop table run_losses;
