"""Sealed contexts, and which network addresses are public."""
