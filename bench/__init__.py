"""What Rejoin costs, measured beside what it stands on: `make bench`. Ratios hold, the rest is the machine's.

figures    one line of the table, percentiles, what a process has used
goals      what was promised, and whether it is kept
servers    the processes that are measured: broker and database, a gateway, a runner, the baseline
load       the client's side: raw HTTP, many streams in one process
logs       runs and their logs without a runner; as a process of its own, the writer of live events
plain      the baseline `nats`: the same reads and subscriptions by nats-py alone
bare       the baseline `bare`: the same events from memory, no broker and no database
agents     the agents that are measured; one says the time
provider   a model provider that says 50 tokens a second
lag        how late a runner's loop is
scenarios  one module each: `async def figures(size)`, run in a process of its own
"""
