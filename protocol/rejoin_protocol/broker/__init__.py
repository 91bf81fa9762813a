"""NATS: subjects, streams, headers, URLs, accounts and permissions."""
