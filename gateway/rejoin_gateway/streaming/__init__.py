"""From a run's log to the bytes of one response: positions, resume points, replay, and readers of events."""
