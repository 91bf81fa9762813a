-- migrate:up

-- Every row belongs to a tenant. What was said and asked travels as `json`, not `jsonb`: the order of keys
-- and \u0000 are kept as they came. Free text that somebody else wrote (errors, reasons) is a JSON string
-- for the same reason: `text` cannot hold a NUL.
--
-- Keys that rows are looked up by come last: of two indexes that seem to cost the same, and on an empty database
-- all do, the planner takes the newer one, and a connection keeps its plan until the table is analyzed.

create table tenants (
  id text primary key,
  -- store.Limits: what it does not name is as the services' settings say.
  limits jsonb not null default '{}',
  created_at timestamptz not null default clock_timestamp()
);

insert into tenants (id) values ('default');

create table sessions (
  tenant_id text not null references tenants on delete cascade,
  id text not null,
  agent text not null,
  -- Whose it is; null: the tenant's. It never changes.
  user_id text,
  title text,
  metadata json,
  -- What later runs are given that bring no context of their own; sealed.
  context bytea,
  -- Given out once each: a position is never used again, not even after its message was deleted.
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
  -- An answer's row is made when its run is: it keeps the position and the id. It has no body until the
  -- run first suspends or ends.
  body json check (body is not null or role = 'assistant'),
  digest bytea,
  -- Of an answer: its run. Of a user's message: the newest run made for it. No foreign key: both go with
  -- the session, and a message may outlive neither.
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
  -- What it was asked for with, to know the same request again: an idempotency key, the message that the
  -- request named, and the digest of what it brought.
  key text,
  target text,
  digest bytea,
  -- Its answer's place in the session; runs take their turns in this order.
  position bigint not null,
  -- The order in which runs were accepted, over all sessions.
  number bigint not null generated always as identity,
  state text not null default 'queued'
    check (state in ('queued', 'running', 'suspended', 'completed', 'failed', 'cancelled')),
  -- Whether it is its turn: in its session, and among its tenant's if that has a limit.
  ready boolean not null,
  turn integer not null default 0,
  attempt integer not null default 0,
  runner text,
  -- Since when a runner should have taken the present turn; null once one has.
  due_at timestamptz,
  -- Since when it is to be ended, by whoever has it or gets it. It waits for nobody any more.
  interrupted_at timestamptz,
  -- As the answer said when it was last stored.
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

-- What a tenant has spent on one day, which deleting its sessions does not undo. In several rows, so that runs
-- that end at once do not wait for each other.
create table spending (
  tenant_id text not null references tenants on delete cascade,
  shard integer not null,
  day date not null,
  tokens bigint not null,
  primary key (tenant_id, shard)
);

create table approvals (
  id text primary key,
  -- The order in which they were asked.
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
