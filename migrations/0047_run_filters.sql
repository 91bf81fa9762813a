-- migrate:up

-- Lists of runs by agent, by user and by a rare state: without these, whoever looks for the runs of somebody who has few reads all
-- runs of the tenant.
create index runs_of_agent on runs (tenant_id, agent, id desc);
create index runs_of_user on runs (tenant_id, user_id, id desc) where user_id is not null;
create index runs_cancelled on runs (tenant_id, id desc) where state = 'cancelled';

-- migrate:down

drop index runs_cancelled, runs_of_user, runs_of_agent;
