-- migrate:up

-- The attempts of a run that ended by an error of their own. Only these make a run fail: an attempt that was lost with
-- its process, or gave its run back because a service was away or its runner stopped, is nothing against the run.
create table run_failures (
  run_id text not null references runs on delete cascade,
  attempt integer not null,
  primary key (run_id, attempt)
);

-- migrate:down

drop table run_failures;
