"""Formats and rules that all packages share. Pure: no I/O, no clock, no randomness, no asyncio.

ids            identifier types and new ids
errors         the errors of all packages
lifecycle      the states of a run and the transitions between them
run_request    messages between gateways and runners
events/        chunks: the events of a run (AI SDK UI message chunks); fold: events to message; unfold:
               message to events; ui_message: types of a message; partial_json: incomplete JSON
log/           record: a batch of events in the log; cursor: a position in it; segment: many records in one
               message; sse: server-sent events
broker/        subjects: names in NATS; broker_url: URLs; broker_permissions: accounts and permissions
security/      sealing: encryption of contexts; public_address: SSRF protection
file_formats   attachments: media types, where they end, data URLs
file_ids       ids of attachments and their URLs
settings       settings from environment, secret files and TOML
"""
