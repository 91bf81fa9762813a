-- migrate:up

-- Tenants, sessions, messages, runs, approvals, keys. Tables of one theme are in its file.
--
-- Every row belongs to a tenant. Messages and inputs are `json`, not `jsonb`: that keeps the order of keys and
-- \u0000. Free text (errors, reasons) is a JSON string for the same reason: `text` cannot contain a NUL.
--
-- The indexes that find the fewest rows are created last, and primary keys behind them. Of two indexes with the same
-- estimated cost, which on an empty database all have, the planner uses the newer one, and a connection keeps its plan until
-- the table is analyzed.

-- Domains, because PostgreSQL keeps the checks of a domain in memory and reads those of a table anew for each statement.
-- `rejoin migrate` and the services refuse a database without `message_role`: other files, with the same numbers, made it.
create domain run_state as text constraint runs_state_check
  check (value in ('queued', 'running', 'suspended', 'completed', 'failed', 'cancelled'));
create domain run_trigger as text constraint runs_trigger_check check (value in ('submit', 'regenerate'));
create domain run_operation_set as text constraint runs_operation_set_check
  check (value in ('none', 'lifecycle', 'progress'));
create domain message_role as text constraint messages_role_check check (value in ('system', 'user', 'assistant'));

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
  updated_at timestamptz not null default clock_timestamp(),
  -- The origin of a forked session, so that a repeated fork returns the same session.
  forked_from text,
  forked_before text,
  -- Of its messages, and of the tools and options of its runs (0004_sizes).
  size_bytes bigint not null default 0
);

create index sessions_of_tenant on sessions (tenant_id, updated_at desc, id desc);
create index sessions_of_user on sessions (tenant_id, user_id, updated_at desc, id desc)
  where user_id is not null;
-- For a session's forks, and the forks of those.
create index sessions_of_source on sessions (tenant_id, forked_from) where forked_from is not null;
-- Sessions without any message: those that MCP clients have opened and not used.
create index sessions_empty on sessions (tenant_id, user_id, created_at) where next_position = 0;
alter table sessions add primary key (tenant_id, id);

create table messages (
  tenant_id text not null,
  session_id text not null,
  id text not null,
  position bigint not null,
  role message_role not null,
  -- The row of an answer is created with its run, to reserve the position and the id. It has no body until the
  -- run is first suspended or ends. A message that an answer has as a part keeps its row, without a body, so that a
  -- repeated request is recognized.
  body json check (body is not null or role = 'assistant' or (role = 'user' and run_id is not null)),
  digest bytea,
  -- Of an answer: its run. Of a user's message: the newest run that answers it. No foreign key: both are deleted
  -- with the session.
  run_id text,
  created_at timestamptz not null default clock_timestamp(),
  -- Of the body, as JSON; null without a body. Files are stored apart.
  size_bytes bigint generated always as (octet_length(body::text)) stored,
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
  trigger run_trigger not null,
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
  state run_state not null default 'queued',
  -- Whether it may execute: it is first in its session and has a place among its tenant's runs.
  ready boolean not null,
  turn integer not null default 0,
  attempt integer not null default 0,
  -- The newest attempt that its runner has ended itself: such an attempt is no loss.
  released_attempt integer not null default 0,
  runner text,
  -- Since when the current turn waits for a runner; null once a runner has claimed it.
  due_at timestamptz,
  -- Since when a runner has to end it. An interrupted run has no pending approvals.
  interrupted_at timestamptz,
  -- The part of the answer that the user had seen last when the run was interrupted; null: all of it.
  seen json,
  -- Usage in the answer when it was last stored.
  input_tokens bigint not null default 0,
  output_tokens bigint not null default 0,
  -- In billionths of a US dollar. Null: no model that answered has a price.
  cost_nano_usd bigint,
  -- By model [input tokens, output tokens, cost or null], as counted in usage_days.
  model_usage jsonb,
  error json,
  -- Of a failed run: what kind of failure, as its runner names it.
  error_code text,
  context bytea,  -- sealed
  -- Which operations its streams have: those of the API that started it (record.OperationSet). A client that counts
  -- events continues on any route, with the count of what the first response sent.
  operation_set run_operation_set not null default 'none',
  -- The client tools that its request has brought, as JSON, and what the request sets for this run alone: instructions,
  -- sampling, the form of the answer. They are gone when the run has ended.
  request_tools json,
  request_options json,
  -- The position in a trace (W3C `traceparent`) at which it was admitted: every attempt at every turn continues it.
  trace text,
  -- The run that the message of this waiting run steers, and the message (0007_steering). No foreign key: both belong
  -- to one session.
  steers text,
  steering json,
  -- Whether the log of the steered run has the message. The log decides: its runner says here what it reads there.
  taken boolean not null default false,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  started_at timestamptz,
  ended_at timestamptz,
  foreign key (tenant_id, session_id) references sessions on delete cascade
);

-- Lists of runs, the last admitted first: ids sort by time. Without those of a rare state, an agent or a user, whoever
-- looks for the newest failed run, or for the runs of somebody who has few, reads all runs of the tenant.
create index runs_of_tenant on runs (tenant_id, id desc);
create index runs_failed on runs (tenant_id, id desc) where state = 'failed';
create index runs_suspended on runs (tenant_id, id desc) where state = 'suspended';
create index runs_cancelled on runs (tenant_id, id desc) where state = 'cancelled';
create index runs_of_agent on runs (tenant_id, agent, id desc);
create index runs_of_user on runs (tenant_id, user_id, id desc) where user_id is not null;
alter table runs add unique (tenant_id, session_id, position);
create index runs_steering on runs (steers, position) where steers is not null;
create unique index runs_by_key on runs (tenant_id, session_id, key) where key is not null;
create index runs_due on runs (due_at) where due_at is not null;
create index runs_waiting on runs (tenant_id, number) where state = 'queued' and not ready;
create index runs_busy on runs (tenant_id, session_id, position) where state in ('queued', 'running');
-- Runs of one session never overlap.
create unique index runs_one_at_a_time on runs (tenant_id, session_id)
  where ready and state in ('queued', 'running');
alter table runs add primary key (id);

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

-- The attempts of a run that ended by an error of their own. Only these make a run fail: an attempt that was lost with
-- its process, or gave its run back because a service was away or its runner stopped, is nothing against the run.
create table run_failures (
  run_id text not null references runs on delete cascade,
  attempt integer not null,
  primary key (run_id, attempt)
);

-- A call that waits for somebody: one that needs an approval, or one of a tool that the client runs, whose answer is an
-- output or, not approved, an error whose text is the reason.
create table approvals (
  id text primary key,
  -- The order in which they were requested.
  number bigint not null generated always as identity,
  tenant_id text not null,
  session_id text not null,
  run_id text not null references runs on delete cascade,
  turn integer not null,
  kind text not null default 'approval' check (kind in ('approval', 'tool-output')),
  call_id text not null,
  tool text not null,
  input json not null,
  -- What changed arguments must be, as a JSON schema. Null: nobody may change them.
  edit_schema json,
  -- The changed arguments. Null: the call runs with `input`.
  edited_input json,
  -- What the client's output must be, as a JSON schema. Null: anything.
  output_schema json,
  output json,
  -- Whether the output is stored. It is stored in the transaction of the decision.
  answered boolean not null default false,
  state text not null default 'pending'
    check (state in ('pending', 'approved', 'denied', 'expired', 'cancelled')),
  reason json,
  -- Who decided: a user, or else a credential. JSON, as all text that comes from outside.
  decided_by json,
  expires_at timestamptz,
  created_at timestamptz not null default clock_timestamp(),
  decided_at timestamptz,
  constraint decided_is_not_pending check ((state = 'pending') = (decided_at is null))
);

-- A reply to a call may name the call alone.
create index approvals_of_call on approvals (tenant_id, call_id, number);
create index approvals_pending on approvals (tenant_id, session_id, number) where state = 'pending';
-- All calls of a tenant that wait for somebody, in the order in which they were asked.
create index approvals_waiting on approvals (tenant_id, number) where state = 'pending';
create index approvals_expiring on approvals (expires_at) where state = 'pending' and expires_at is not null;
create index approvals_of_run on approvals (run_id, number);

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

drop table api_keys, artifacts, approvals, run_failures, run_losses, runs, messages, sessions, tenants;
drop domain message_role, run_operation_set, run_trigger, run_state;
