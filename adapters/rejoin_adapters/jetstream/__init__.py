"""Adapters of the ports in NATS JetStream."""
