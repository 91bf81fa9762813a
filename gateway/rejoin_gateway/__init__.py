"""The gateway: accepts chat requests over HTTP, queues runs, streams their logs. It stores nothing itself.

app          wires a gateway: connections, background work, routes
settings     the settings of a gateway process
embed        a gateway inside another application: `connect`, `routes`
asgi         the same routes for ASGI servers and frameworks
api          one file or folder for each API: decode the request, call the core, render the response
core         what all APIs do the same way: sessions, messages, attachments, agent contexts. No HTTP
streaming    positions in a run's log, and the log as the bytes of one response
http         middleware, requests, responses, route table, errors, limits, OpenAPI
images       images of messages: their cost, and the processes that decode them
auth         API keys, JSON web tokens, and what they allow
ui           the pages: playground, inspector, API documentation
agent_cache  entries of agents, cached
metrics      Prometheus metrics

A request passes `http.middleware` (authentication, limits), a handler in `api`, `core` (store, then publish
the run), and `http.response`, which streams a `streaming.replay`.
"""
