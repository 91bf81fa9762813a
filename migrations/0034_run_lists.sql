-- migrate:up

-- Lists of runs, the last admitted first: ids sort by time. Without the second index, whoever looks for the newest failed
-- run reads all runs that did not fail.
create index runs_of_tenant on runs (tenant_id, id desc);
create index runs_failed on runs (tenant_id, id desc) where state = 'failed';
create index runs_suspended on runs (tenant_id, id desc) where state = 'suspended';

create or replace function listed_json(r runs) returns json language sql stable as $$
  select json_build_object(
    'run', run_json(r), 'created_at', r.created_at, 'updated_at', r.updated_at, 'runner', r.runner,
    'started_at', r.started_at, 'ended_at', r.ended_at)
$$;

-- migrate:down

create or replace function listed_json(r runs) returns json language sql stable as $$
  select json_build_object(
    'run', run_json(r), 'created_at', r.created_at, 'updated_at', r.updated_at, 'runner', r.runner)
$$;

drop index runs_suspended, runs_failed, runs_of_tenant;
