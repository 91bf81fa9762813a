"""Functions as tools: schemas, arguments, contexts, threads for functions that are not async."""
