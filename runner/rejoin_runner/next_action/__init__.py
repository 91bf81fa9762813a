"""What a run does next, decided from its log alone. Pure: no I/O, no clock.

`run_state` folds the log, `agent_stack` finds the agents in it, `decide` chooses the next action.
"""
