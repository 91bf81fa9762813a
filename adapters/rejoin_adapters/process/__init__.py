"""What every service process needs: logs, metrics, tracing, TLS, signals."""
