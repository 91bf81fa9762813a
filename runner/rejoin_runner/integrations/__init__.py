"""Other people's agents as ours: adapters that say in chunks what another library's loop does.

Each imports its library; nothing here is imported unless an application does it.
"""
