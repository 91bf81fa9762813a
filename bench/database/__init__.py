"""Measurements of PostgreSQL alone."""
