"""`find_internals` reports each private part of nats-py that a release lacks or has changed."""

from types import SimpleNamespace
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.protocol import parser

from rejoin_adapters.jetstream.nats_client import (
    FIELDS_NEEDED,
    METHODS_NEEDED,
    RawMessage,
    find_internals,
    to_raw,
)


def release(*, without: str = "", **changed: Any) -> Any:
    """A client class like nats-py's, except for one field or method."""

    def init(self: Any) -> None:
        vars(self).update({name: value for name, value in vars(Client()).items() if name != without})
        vars(self).update(changed)

    methods = {name: getattr(Client, name) for name in METHODS_NEEDED if name != without}
    return type("Client", (), {"__init__": init, **methods})


def test_the_installed_release_has_all_parts() -> None:
    assert find_internals(Client, parser).missing == []
    assert find_internals(release(), parser).missing == []


@pytest.mark.parametrize("name", [*FIELDS_NEEDED, *METHODS_NEEDED])
def test_a_release_without_one_part_lacks_what_needs_it(name: str) -> None:
    users = {**FIELDS_NEEDED, **METHODS_NEEDED}[name]
    assert find_internals(release(without=name), parser).missing == list(users)


def test_a_part_of_another_type_or_signature_is_not_used() -> None:
    assert find_internals(release(_pending=b""), parser).missing == ["writes"]
    other = release()
    other._process_msg = Client._process_pong
    assert find_internals(other, parser).missing == ["delivery"]
    assert find_internals(Client, SimpleNamespace(Parser=parser.Parser)).missing == ["delivery"]


@pytest.mark.parametrize(
    ("headers", "raw"),
    [
        (None, b""),
        ({"A": "b"}, b"NATS/1.0\r\nA: b\r\n\r\n"),
        ({"Status": "404"}, b"NATS/1.0 404\r\n\r\n"),
        ({"Status": "204", "Description": "EOB", "A": "b"}, b"NATS/1.0 204 EOB\r\nA: b\r\n\r\n"),
    ],
)
def test_a_message_of_nats_py_is_delivered_like_one_that_was_read_directly(
    headers: dict[str, str] | None, raw: bytes
) -> None:
    message = to_raw(Msg(Client(), subject="a.b", data=b"data", headers=headers))
    assert message == RawMessage(b"a.b", raw, b"data")
    assert {name: value for name, value in message.headers.items() if value} == (headers or {})
