"""The log's format: records, segments, cursors, server-sent events."""
