"""Whole sessions: list, page through, fork, rewind, rename, delete. `RunStore` stores their runs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from msgspec import UNSET, UnsetType

from rejoin_adapters.console_types import SessionFilter
from rejoin_adapters.store_types import (
    Fork,
    ForkOrigin,
    MessagePage,
    Owner,
    RunSummary,
    SessionPage,
    SessionSummary,
)
from rejoin_adapters.usage_types import SessionUsage
from rejoin_protocol.ids import AgentName, MessageId, RunId, SessionId, TenantId, UserId
from rejoin_protocol.limits import MIB

FORKS_MAX = 1_000
DELETE_BATCH_MAX = 100
"""Sessions deleted in one transaction, if they are small."""
ROWS_BATCH_MAX = 500
BYTES_BATCH_MAX = 16 * MIB
"""Rows of one table, and bytes of messages, deleted in one transaction, so that none takes long."""


class DeletedBatch(NamedTuple):
    """`sessions`: how many sessions are gone. `more`: the batch was full, and more may be due."""

    sessions: int
    more: bool


class SessionStore(Protocol):
    """Each method is one transaction. A method that takes an `Owner` sees only that owner's sessions. An
    invalid page token raises `Invalid`.
    """

    async def list(
        self,
        owner: Owner,
        *,
        agent: AgentName | None = None,
        limit: int = 20,
        before: str | None = None,
        skip: int = 0,
        roots: bool = False,
    ) -> SessionPage:
        """A page of the owner's sessions, the most recently changed first. `before`: a page token. `skip`:
        leaves out that many of the sessions that would come first. `roots`: without the forks of sessions
        that still exist.
        """
        ...

    async def search(self, owner: Owner, wanted: SessionFilter, limit: int = 20) -> SessionPage:
        """A page of the owner's sessions that a filter names, the most recently changed first. With a text it
        looks at `SEARCHED_MAX` sessions: a page may have fewer than `limit` sessions, or none, and a `next`.
        """
        ...

    async def count(
        self, owner: Owner, *, agent: AgentName | None = None, count_max: int, roots: bool = False
    ) -> int:
        """The number of the owner's sessions. Counts no further than `count_max`. `roots`: as in `list`."""
        ...

    async def openings(self, owner: Owner, sessions: Sequence[SessionId]) -> Mapping[SessionId, str]:
        """How sessions began: at least the first 200 characters of the text of their first user message, if
        it has that many, with U+FFFD instead of NUL. Sessions without such a text are missing.
        """
        ...

    async def forks(self, owner: Owner, sessions: Sequence[SessionId]) -> Sequence[Fork]:
        """The forks of these sessions and the forks of those, oldest first; at most `FORKS_MAX`."""
        ...

    async def origin(self, owner: Owner, session: SessionId) -> ForkOrigin | None:
        """Where a session was forked from. None if it was not, or if one of the two does not exist."""
        ...

    async def get(self, owner: Owner, session: SessionId) -> SessionSummary | None:
        """One session, or None."""
        ...

    async def messages(
        self,
        owner: Owner,
        session: SessionId,
        *,
        limit: int = 50,
        before: str | None = None,
        skip: int = 0,
    ) -> MessagePage:
        """The newest page of messages, or the page that a token names. `skip`: leaves out that many of the
        newest. A page ends early at `PAGE_BYTES_MAX`; it has one message at least. Raises `NotFound`.
        """
        ...

    async def runs(self, owner: Owner, session: SessionId) -> Sequence[RunSummary]:
        """The session's runs, newest first. Raises `NotFound`."""
        ...

    async def usage(self, owner: Owner, session: SessionId) -> SessionUsage:
        """The tokens that the session's runs have used. Raises `NotFound`."""
        ...

    async def fork(
        self, owner: Owner, session: SessionId, message: MessageId, into: SessionId
    ) -> SessionSummary:
        """Create session `into`, with the same agent and user and the messages strictly before `message`.
        Idempotent. Raises `NotFound`, and `Conflict` if `into` is another session.
        """
        ...

    async def rewind(self, owner: Owner, session: SessionId, message: MessageId) -> SessionSummary:
        """Drop the messages after `message` and cancel suspended runs among them. Raises `NotFound`, and
        `Conflict` if the session is busy.
        """
        ...

    async def update(
        self,
        owner: Owner,
        session: SessionId,
        *,
        title: str | UnsetType | None = UNSET,
        metadata: Any | UnsetType = UNSET,
    ) -> SessionSummary:
        """Change the given fields. `updated_at`, which orders the list, stays. Raises `NotFound`."""
        ...

    async def delete(self, owner: Owner, session: SessionId) -> Sequence[RunId] | None:
        """Delete a session and everything that belongs to it. The logs of its runs are purged soon after.
        Runners of these runs are fenced. Returns its runs, or None if there is no such session.
        """
        ...

    async def delete_user(self, tenant: TenantId, user: UserId) -> int:
        """Delete a user's API keys, events and sessions, in batches: if it raises, call it again. Returns the
        number of sessions deleted.
        """
        ...

    async def delete_untouched(self, age_s: float) -> DeletedBatch:
        """Delete a batch of the sessions of all tenants that have not changed for `age_s` and are not busy.
        Suspended runs are deleted with their session. A session that is too large for a batch loses its
        oldest rows first. Client events of that age are deleted too, whether their session exists or not.
        """
        ...
