"""The one way to a run's log: events paced, ordered, batched and appended."""
