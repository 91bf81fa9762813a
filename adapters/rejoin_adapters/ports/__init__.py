"""The ports: what gateway and runner need from NATS and PostgreSQL, as protocols.

Each port has one adapter (`rejoin_adapters.jetstream`, `rejoin_adapters.postgres`, `rejoin_adapters.files`)
and one in memory (`rejoin_adapters.memory`); one contract suite (`tests/contract`) runs against both. Only
the `app.py` files, the command line and tests construct an adapter.

    run_log         RunLog, LiveSubscription, LogPage     append, read and follow the events of a run
    run_queue       RunQueue, Delivery                    the work queue of run requests
    run_control     RunControl, ControlMessage            messages to the runner that executes a run
    agent_registry  AgentRegistry                         which agents the runners serve
    run_store       RunStore                              sessions, messages, runs, approvals
    session_store   SessionStore                          list, page, fork, rewind, delete whole sessions
    artifacts       Artifacts                             results of tools that are too large for the log
    feedback        FeedbackStore                         feedback on answers, events that clients report
    files           FileStore                             attachments
    api_keys        ApiKeys                               hashed API keys
    tenants         Tenants                               the limits of each tenant
    mcp_sessions    McpSessions                           sessions that an MCP client opens and ends
    run_counts      RunCounts                             queued and running runs of each agent

Every method may raise `Unavailable` while its server cannot be reached. The operation was then either carried
out completely or not at all.
"""
