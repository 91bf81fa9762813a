"""Runners: processes that claim runs, execute agents and append the results to the runs' logs.

agent         what an application declares: agents, teams of agents, custom loops
tools         functions as tools
models        language models, real providers, context windows
mcp           tools of MCP servers
integrations  agents of other libraries
next_action   what a run does next, decided from its log; pure
run           carries the decisions out: model calls, tool calls, approvals, delegation
output        writes events to the run's log, paced and in batches
worker        claims runs, keeps their leases, drains
application_code: the edge at which exceptions of an application's code end
app           wires all of it; `settings` are the process's settings
demo          the scripted agent of `rejoin dev`
"""
