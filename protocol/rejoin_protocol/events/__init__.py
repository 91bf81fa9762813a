"""The events of a run (AI SDK UI message chunks) and how they fold into a message."""
