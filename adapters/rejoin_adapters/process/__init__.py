"""What every service process needs: redaction, metrics, tracing, TLS, signals."""
