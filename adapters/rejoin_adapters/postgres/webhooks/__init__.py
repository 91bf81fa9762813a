"""The outbox of webhooks in PostgreSQL."""
