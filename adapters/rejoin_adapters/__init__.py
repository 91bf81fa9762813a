"""The only package that talks to NATS and PostgreSQL.

    store_types    the structs that the database ports exchange
    ports/         protocols: what gateway and runner may ask for
    page_tokens    opaque tokens of paged lists
    log_setup      how processes log

    jetstream/     NATS. nats_connection: one connection; nats_client: nats-py's client, extended;
                   request_mux: requests on one inbox; setup: streams and consumers; run_log: fenced appends
                   and reads; live_feed and log_tail: live records, joined with stored ones; run_queue,
                   run_control, agent_registry: the other ports
    postgres/      PostgreSQL. pool: connections and errors; migrate: the schema; batch_loader: concurrent
                   look-ups as one query; run_store, session_store, artifacts, api_keys, tenants,
                   mcp_sessions, run_counts: the ports
    files/         attachments: chunk_store keeps the bytes in JetStream, file_store the references in
                   PostgreSQL
    memory/        the ports in memory, for tests of applications and of Rejoin
    process/       what every service process needs: redaction, metrics, tracing, TLS, signals
    embedded/      private NATS and PostgreSQL servers for development and tests

Import rule: nothing here imports `rejoin_gateway` or `rejoin_runner`. They type against `ports`; only their
`app.py`, the command line and tests construct the adapters.
"""
