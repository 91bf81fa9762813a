"""Real model providers, through pydantic-ai's model classes. Imported when the first model is opened."""
