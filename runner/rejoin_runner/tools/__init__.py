"""Functions as tools: the decorator, argument schemas, contexts, calls in threads."""
