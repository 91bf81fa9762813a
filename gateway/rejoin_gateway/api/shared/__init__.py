"""What several API families share.

lookup          the session or run that a request names
paging          `limit` and `before`
answers         what a chat request leads to, and common response types
message_forms   messages with `content` or `parts`
"""
