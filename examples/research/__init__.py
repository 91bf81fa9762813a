"""Two agents in one run, and an artifact."""
