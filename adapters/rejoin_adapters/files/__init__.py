"""Attachments in the broker: chunked content, and the index of who holds which file."""
