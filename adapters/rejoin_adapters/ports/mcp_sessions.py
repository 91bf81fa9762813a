"""Sessions that an MCP client opens before its first request and ends when it disconnects.

An open session carries the mark `{"mcp": "open"}` in its metadata. An ended one keeps its messages and its
pending approvals, and accepts no further requests. `RunStore` stores its runs, as for any session.
"""

import hashlib
from typing import Protocol

from rejoin_adapters.store_types import Owner
from rejoin_protocol.ids import AgentName, RunId, SessionId

EMPTY_MAX = 100
"""Open sessions of one owner without any message. A client whose session is gone opens another one."""


def request_key(request: str, nonce: str) -> str:
    """The idempotency key of a run that an MCP request created: found again by the client's request id, yet
    unique through `nonce`, because a client may reuse its request ids.
    """
    return f"{request_prefix(request)}{nonce}"


def request_prefix(request: str) -> str:
    """The prefix of the idempotency keys of all runs of this request id."""
    return f"mcp:{hashlib.sha256(request.encode()).hexdigest()[:32]}:"


class McpSessions(Protocol):
    """Each method is one transaction and sees only its owner's sessions."""

    async def open(self, owner: Owner, session: SessionId, agent: AgentName) -> None:
        """Create an empty session. Of the owner's empty ones only the `EMPTY_MAX` newest are kept. Raises
        `Conflict` if the id is taken.
        """
        ...

    async def find_agent(self, owner: Owner, session: SessionId) -> AgentName | None:
        """The agent of an open session, or None if there is none or it has ended."""
        ...

    async def end(self, owner: Owner, session: SessionId) -> bool:
        """End a session; one without messages is deleted. Returns whether it was open."""
        ...

    async def find_run(self, owner: Owner, session: SessionId, request: str) -> RunId | None:
        """The newest run of the client's request with this id, or None."""
        ...
