"""Runs in PostgreSQL: `RunStore` in parts by what they are about, and `RunCounts`."""
