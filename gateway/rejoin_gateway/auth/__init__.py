"""Who is calling: API keys, JSON web tokens, and what they allow."""
