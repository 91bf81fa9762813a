"""Encryption of request contexts; which network addresses are public."""
