"""All ports in the memory of one process, for tests: the contract suite runs against them and the servers."""
