"""The run API: `/run/api/…` for single runs (executions) and `/run/v1/conversations` for sessions."""
