"""One file for each way of talking to us.

A family parses its own request, calls the core, and renders; it has no state and no rule of its own.
"""
