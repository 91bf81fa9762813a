-- migrate:up

-- Every row belongs to a tenant. Messages and inputs are `json`, not `jsonb`: that keeps the order of keys and
-- \u0000. Free text (errors, reasons) is a JSON string for the same reason: `text` cannot contain a NUL.
--
-- Primary keys are created last. Of two indexes with the same estimated cost, which on an empty database all have,
-- the planner uses the newer one, and a connection keeps its plan until the table is analyzed.

create table tenants (
  id text primary key,
  -- store_types.Limits. Limits that it does not name are those of the services' settings.
  limits jsonb not null default '{}',
  created_at timestamptz not null default clock_timestamp()
);

insert into tenants (id) values ('default');

create table sessions (
  tenant_id text not null references tenants on delete cascade,
  id text not null,
  agent text not null,
  -- The user who owns the session; null: the tenant. Never changes.
  user_id text,
  title text,
  metadata json,
  -- Context of later runs that bring none of their own; sealed.
  context bytea,
  -- A position is never reused, not even after its message was deleted.
  next_position bigint not null default 0,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp()
);

create index sessions_of_tenant on sessions (tenant_id, updated_at desc, id desc);
create index sessions_of_user on sessions (tenant_id, user_id, updated_at desc, id desc)
  where user_id is not null;
alter table sessions add primary key (tenant_id, id);

create table messages (
  tenant_id text not null,
  session_id text not null,
  id text not null,
  position bigint not null,
  role text not null check (role in ('system', 'user', 'assistant')),
  -- The row of an answer is created with its run, to reserve the position and the id. It has no body until the
  -- run is first suspended or ends.
  body json check (body is not null or role = 'assistant'),
  digest bytea,
  -- Of an answer: its run. Of a user's message: the newest run that answers it. No foreign key: both are deleted
  -- with the session.
  run_id text,
  created_at timestamptz not null default clock_timestamp(),
  unique (tenant_id, session_id, position),
  foreign key (tenant_id, session_id) references sessions on delete cascade
);

alter table messages add primary key (tenant_id, session_id, id);

create table runs (
  id text not null,
  tenant_id text not null,
  session_id text not null,
  user_id text,  -- the session's
  agent text not null,
  trigger text not null check (trigger in ('submit', 'regenerate')),
  user_message_id text not null,
  answer_id text not null,
  -- Identify a repeated request: its idempotency key, the message that it named, and the digest of its content.
  key text,
  target text,
  digest bytea,
  -- The position of its answer; the runs of a session execute in this order.
  position bigint not null,
  -- The order of admission over all sessions.
  number bigint not null generated always as identity,
  state text not null default 'queued'
    check (state in ('queued', 'running', 'suspended', 'completed', 'failed', 'cancelled')),
  -- Whether it may execute: it is first in its session and has a place among its tenant's runs.
  ready boolean not null,
  turn integer not null default 0,
  attempt integer not null default 0,
  runner text,
  -- Since when the current turn waits for a runner; null once a runner has claimed it.
  due_at timestamptz,
  -- Since when a runner has to end it. An interrupted run has no pending approvals.
  interrupted_at timestamptz,
  -- Usage in the answer when it was last stored.
  input_tokens bigint not null default 0,
  output_tokens bigint not null default 0,
  error json,
  context bytea,  -- sealed
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  started_at timestamptz,
  ended_at timestamptz,
  unique (tenant_id, session_id, position),
  foreign key (tenant_id, session_id) references sessions on delete cascade,
  constraint ended_is_terminal check ((ended_at is not null) = (state in ('completed', 'failed', 'cancelled'))),
  constraint waiting_is_queued check (ready or state = 'queued'),
  constraint begun_was_claimed check (state = 'queued' or attempt >= 1),
  constraint due_is_ready check (due_at is null or (ready and state in ('queued', 'running'))),
  constraint ended_keeps_no_context check (ended_at is null or context is null),
  constraint interrupted_goes_on check (interrupted_at is null or state <> 'suspended')
);

-- Runs of one session never overlap.
create unique index runs_one_at_a_time on runs (tenant_id, session_id)
  where ready and state in ('queued', 'running');
create index runs_busy on runs (tenant_id, session_id, position) where state in ('queued', 'running');
create index runs_waiting on runs (tenant_id, number) where state = 'queued' and not ready;
create index runs_due on runs (due_at) where due_at is not null;
create unique index runs_by_key on runs (tenant_id, session_id, key) where key is not null;
alter table runs add primary key (id);

-- Tokens that a tenant has used on one day; deleting sessions does not reduce them. Several rows for each tenant,
-- so that runs that end at the same time do not wait for each other.
create table spending (
  tenant_id text not null references tenants on delete cascade,
  shard integer not null,
  day date not null,
  tokens bigint not null,
  primary key (tenant_id, shard)
);

create table approvals (
  id text primary key,
  -- The order in which they were requested.
  number bigint not null generated always as identity,
  tenant_id text not null,
  session_id text not null,
  run_id text not null references runs on delete cascade,
  turn integer not null,
  call_id text not null,
  tool text not null,
  input json not null,
  state text not null default 'pending'
    check (state in ('pending', 'approved', 'denied', 'expired', 'cancelled')),
  reason json,
  expires_at timestamptz,
  created_at timestamptz not null default clock_timestamp(),
  decided_at timestamptz,
  constraint decided_is_not_pending check ((state = 'pending') = (decided_at is null))
);

create index approvals_of_run on approvals (run_id, number);
create index approvals_pending on approvals (tenant_id, session_id, number) where state = 'pending';
create index approvals_expiring on approvals (expires_at) where state = 'pending' and expires_at is not null;

create table artifacts (
  tenant_id text not null,
  id text not null,
  session_id text not null,
  run_id text,
  type text not null,
  name text,
  summary json,
  body json not null,
  created_at timestamptz not null default clock_timestamp(),
  primary key (tenant_id, id),
  foreign key (tenant_id, session_id) references sessions on delete cascade
);

create index artifacts_of_session on artifacts (tenant_id, session_id, created_at);

create table api_keys (
  id text primary key,
  tenant_id text not null references tenants on delete cascade,
  hash bytea not null,
  scopes text[] not null,
  agent text,
  user_id text,
  name text,
  created_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz,
  revoked_at timestamptz,
  last_used_at timestamptz
);

create index api_keys_of_tenant on api_keys (tenant_id, created_at);

-- migrate:down

drop table api_keys, artifacts, approvals, spending, runs, messages, sessions, tenants;
