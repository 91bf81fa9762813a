"""Page tokens: opaque to clients, base64url of a small JSON array."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Annotated, Protocol, Self

import msgspec
from msgspec import Meta

from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import SessionId

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

type _Number = Annotated[int, Meta(ge=0, le=2**53)]


class PlacedSession(Protocol):
    """A session as far as its place among all sessions needs it."""

    @property
    def id(self) -> SessionId:
        """Its id."""
        ...

    @property
    def updated_at(self) -> datetime:
        """When it changed last."""
        ...


class SessionToken(msgspec.Struct, frozen=True, array_like=True):
    """The last session of a page: when it changed, in microseconds since 1970, and its id."""

    time_us: _Number
    id: SessionId

    @classmethod
    def of(cls, session: PlacedSession) -> Self:
        """The token of the page behind this session."""
        return cls((session.updated_at - _EPOCH) // timedelta(microseconds=1), session.id)


class MessageToken(msgspec.Struct, frozen=True, array_like=True):
    """The first message of a page: its position in the session."""

    position: _Number


class NumberToken(msgspec.Struct, frozen=True, array_like=True):
    """The last entry of a page: its number in the order of storing."""

    number: _Number


def encode(token: SessionToken | MessageToken | NumberToken) -> str:
    """A token as clients get it."""
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")


def decode[T](kind: type[T], token: str) -> T:
    """A client's token. Raises `Invalid`."""
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)), type=kind)
    except ValueError as error:  # of either decoder
        raise Invalid("not a page token of this API", "/before") from error
