"""Authentication: API keys, JSON web tokens, and the principals that they stand for."""
