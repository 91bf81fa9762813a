"""The HTTP side: takes chat requests, asks for runs, and streams their logs. Holds nothing that must survive.

sessions   the core: send, decide, resume, history; what every route family says the same way
locate     a position in a run's log
replay     a run's log as the bytes of one response, from any position
turns      what clients send as messages and decisions, checked
positions  the ways in which a client says where it is
problems   errors as `application/problem+json`: the one table from our words to HTTP
heard      a run's events for families that do not pass its bytes on; `openai_…` what some of them say
families   one file for each way of talking to us: parse, call the core, render
web        the aiohttp application: routes, middlewares, streaming responses
app        wires it; `cli` and `dev` are the command line
library    the core inside of one's own application: `connect`, `routes`
"""
