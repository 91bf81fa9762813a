"""Agents of other libraries as Rejoin agents.

Each module imports its library and is imported by applications only.
"""
