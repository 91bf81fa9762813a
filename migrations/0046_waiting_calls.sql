-- migrate:up

-- All calls of a tenant that wait for somebody, in the order in which they were asked.
create index approvals_waiting on approvals (tenant_id, number) where state = 'pending';

-- migrate:down

drop index approvals_waiting;
