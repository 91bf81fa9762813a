"""Adapters of the ports in PostgreSQL."""
