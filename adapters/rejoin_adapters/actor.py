"""On whose behalf this task changes the database: the audit log has it.

A gateway sets it for each request, a command once. Without it the audit log names the database's role.
"""

from contextvars import ContextVar

import msgspec


class Actor(msgspec.Struct, frozen=True):
    """`name`: a credential or an operator. `peer`: the address or machine that the change comes from."""

    name: str
    peer: str | None = None


_current: ContextVar[Actor | None] = ContextVar("actor", default=None)


def act_as(actor: Actor | None) -> None:
    """Set the actor of this task and its child tasks."""
    _current.set(actor)


def current_actor() -> Actor | None:
    """The actor of this task, if somebody has set one."""
    return _current.get()
