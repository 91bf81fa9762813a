"""What Rejoin costs, measured beside what it stands on: `make bench`. Ratios hold, the rest is the machine's.

agents   the agent that is measured: it says the time
bare     the baseline: the same events from memory, no broker and no database
load     the client's side: one process, many requests
"""
