"""From a run's log to the bytes of one response: positions, replay, and readers of events."""
