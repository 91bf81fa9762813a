"""What gateway and runner agree on. Pure: no I/O, no clock, no randomness, no async.

session    a conversation, its id chosen by the caller
run        one answer being made: exactly one assistant message, also across approvals and crashes
event      one UI message chunk of a run (`chunks`)
log        a run's events, in order, in the broker: the truth, and what clients see (`log`)
cursor     a place in a log, as clients hold it (`cursor`)
batch      the events of one append; attempt, index and marks travel beside them (`log`)
fold       a log to a message, and `unfold` back
attempt    how often a run was claimed; the newest one alone may append
turn       how often a run went on after a decision
names      every subject, stream, bucket and header, in one place
lifecycle  the states of a run and the only ways between them
"""
