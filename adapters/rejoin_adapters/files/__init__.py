"""Attachments: bytes in JetStream, references in PostgreSQL."""
