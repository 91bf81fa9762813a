"""The ids of sessions as their users call them, and as they are stored. Pure.

Two users of one tenant may both call a session `1`. A session's stored id is unique in the tenant: the first
session of that name has the name itself, and the sessions of other users have the name with a mark of their
user behind it. A user never sees the mark; a caller without a user sees all sessions of the tenant, by their
stored ids. `migrations/0003_sessions.sql` has the same rule.
"""

import hashlib
import re

import msgspec

from rejoin_adapters.feedback_types import ClientEvent, Feedback
from rejoin_adapters.store_types import Fork, Owner, Run, RunSummary, SessionSummary
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import SessionId, UserId

_MARK = re.compile(r"~[0-9a-f]{16}\Z")


def mark_of(user: UserId) -> str:
    """What stands behind the name of a user's session where somebody else has the name."""
    return "~" + hashlib.sha256(user.encode()).hexdigest()[:16]


def check_new(session: SessionId, user: UserId | None) -> None:
    """Raises `Invalid` for the id of a new session that ends like the mark of another user."""
    if _MARK.search(session) and (user is None or not session.endswith(mark_of(user))):
        raise Invalid("a session id does not end with ~ and 16 hexadecimal digits")


def name_of(owner: Owner, session: SessionId) -> SessionId:
    """A stored id as the owner calls the session."""
    return session if owner.user is None else SessionId(session.removesuffix(mark_of(owner.user)))


def sealing_name(session: SessionId) -> SessionId:
    """The name for which a session's context is encrypted: without the mark, whoever asks. A gateway that
    encrypts it does not know yet whether the session will be stored with a mark.
    """
    return SessionId(_MARK.sub("", session))


def named_run(owner: Owner, run: Run) -> Run:
    """A run whose session has the name that the owner gave it."""
    name = name_of(owner, run.session)
    return run if name == run.session else msgspec.structs.replace(run, session=name)


def named_summary(owner: Owner, summary: RunSummary) -> RunSummary:
    """A run's summary, as `named_run`."""
    return msgspec.structs.replace(summary, run=named_run(owner, summary.run))


def named_session(owner: Owner, session: SessionSummary) -> SessionSummary:
    """A session with the name that the owner gave it."""
    return msgspec.structs.replace(session, id=name_of(owner, session.id))


def named_fork(owner: Owner, fork: Fork) -> Fork:
    """A fork with the names that the owner gave it, its source and its root."""
    return msgspec.structs.replace(
        fork,
        root=name_of(owner, fork.root),
        id=name_of(owner, fork.id),
        source=name_of(owner, fork.source),
    )


def named_entry[T: (Feedback, ClientEvent)](owner: Owner, entry: T) -> T:
    """What a user has reported, with the name that the owner gave the session."""
    if entry.session is None:
        return entry
    return msgspec.structs.replace(entry, session=name_of(owner, SessionId(entry.session)))
