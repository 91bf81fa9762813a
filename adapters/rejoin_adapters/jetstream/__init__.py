"""NATS JetStream: the connection, the run logs, the request queue, run control, the agent registry."""
