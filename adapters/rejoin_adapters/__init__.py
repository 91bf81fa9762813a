"""The only code that talks to NATS and PostgreSQL.

ports      what gateway and runner may ask for; the rest of this package answers
broker     one NATS connection: its options, its errors, its liveness, requests with many replies
streams    declares what the broker must have, idempotently
log        appends behind a fence, reads by direct get, follows by core subscription
splice     live records and stored ones as one gapless sequence
follow     what comes live, handed to its readers; `mended` is nats-py's client, which hands it over
requests   the work queue; `agents` the registry
store      the store's port; `postgres` answers it, `migrate` its schema, `database` the connections
threads    whole sessions: listed, forked, deleted; `artifacts` and `keys` beside them
together   what many ask at once, asked once
embedded   private servers for development and tests
control    the way to the runner that holds a run
memory_…   doubles of the ports, for tests of what stands on them
"""
