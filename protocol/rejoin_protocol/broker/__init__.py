"""Names and permissions in the broker: subjects, streams, headers, URLs, accounts."""
