"""The OpenAI-compatible APIs: chat completions and responses, rendered from a run's log."""
