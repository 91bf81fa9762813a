"""The scopes that a credential may have and that routes require."""

from enum import StrEnum


class Scope(StrEnum):
    """What a credential allows."""

    CHAT = "chat"
    """Send messages, read sessions, interrupt runs."""
    APPROVE = "approve"
    """Decide approvals of tool calls."""
    ADMIN = "admin"
    """Use the agent-chat family, and read other users' sessions of the tenant."""
