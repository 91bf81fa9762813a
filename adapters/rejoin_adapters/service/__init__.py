"""What a service process needs: logs, metrics, traces, TLS, background tasks."""
