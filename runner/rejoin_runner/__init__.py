"""The workers: they claim runs, execute agent loops, and append what comes of it to the runs' logs.

agents    what an application declares
tools     functions as tools; `plain` calls those that are not async
models    language models behind one small port
crew      the agents that one agent reaches, checked, and the tools that lead to them
standing  what a run's log says about it
frames    whose step is whose: a part of it, where several agents share a run
machine   what is to be done next: pure, and the same for live work and after a crash
loop      does it: begins and ends a run; what is between is `respond`'s and `acting`'s, on an `attempt`
respond   one response of a model, or of a loop of the application's own
acting    questions, calls of tools, results
delegating  work that changes hands between agents
context   what a tool is told and may say; `voice` is its way to the log
attachments  files between messages and models
shortening  what of a long conversation the model is shown
opening   the context of a request opened, instructions made
own       an application's own loop; `foreign` adapts other libraries' agents
updates   summaries of long work, written beside it
pen       what is said, paced and in order, on its way to the journal; `pacing` is its pure half
journal   the log's one writer: batches, one append in flight
worker    pulls requests, claims, keeps them alive, drains; `blocked` tells who keeps it from that
remote    tools of MCP servers; `mcp` is the way to them, `guarded` its HTTP, `schemas` what they take
demo      the scripted agent of `rejoin dev`
"""
