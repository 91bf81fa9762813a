"""How the client parses events as the server writes them, and errors in every family's format."""

import msgspec
import pytest

from rejoin_client import Data, Limited, Malformed, Refused, TextDelta, Unknown, errors, events
from rejoin_protocol.events import chunks


def fields(kinds: object) -> dict[str, dict[str, bool]]:
    """By type: the names on the wire, and which of them must be there."""
    return {
        str(msgspec.inspect.type_info(kind).tag): {  # type: ignore[attr-defined]
            field.encode_name: field.required for field in msgspec.structs.fields(kind)
        }
        for kind in kinds.__value__.__args__  # type: ignore[attr-defined]
    }


def test_the_client_knows_every_event_of_the_protocol_with_all_its_fields() -> None:
    """An approval request also has the tool and the input of its call, from an earlier event."""
    known = fields(events.Known)
    for name in ("toolName", "input"):
        assert known["tool-approval-request"].pop(name) is False, "optional"
    assert known == fields(chunks.Tagged)


def test_an_event_is_read_by_its_type() -> None:
    assert events.decode(b'{"type":"text-delta","id":"1","delta":"a","new":1}') == TextDelta("1", "a")
    assert events.decode(b'{"type":"data-x","data":[1],"id":"i"}') == Data("data-x", [1], "i")


@pytest.mark.parametrize("raw", [b'{"type":"text-flourish","x":1}', b'{"type":"text-delta"}', b'{"type":1}'])
def test_unknown_event_types_are_kept_unchanged(raw: bytes) -> None:
    event = events.decode(raw)
    assert isinstance(event, Unknown)
    assert event.raw == msgspec.json.decode(raw)


@pytest.mark.parametrize("raw", [b"<html>", b"[1]", b""])
def test_data_that_is_no_event_raises_an_error(raw: bytes) -> None:
    with pytest.raises(Malformed):
        events.decode(raw)


@pytest.mark.parametrize(
    ("status", "raw", "kind", "detail", "code"),
    [
        (
            404,
            b'{"title":"Not Found","detail":"no x","code":"not_found"}',
            errors.NotFound,
            "no x",
            "not_found",
        ),
        (404, b'{"error":"no x"}', errors.NotFound, "no x", ""),
        (409, b'{"error":{"message":"taken","code":"conflict"}}', errors.Conflict, "taken", "conflict"),
        (502, b"<html>", Refused, "Bad Gateway", ""),
        (599, b"", Refused, "the server answered 599", ""),
        (403, b"[1]", errors.Forbidden, "Forbidden", ""),
    ],
)
def test_a_refusal_has_the_fields_of_its_problem_in_every_shape(
    status: int, raw: bytes, kind: type[Refused], detail: str, code: str
) -> None:
    fault = errors.parse_refusal(status, {}, raw)
    assert type(fault) is kind
    assert (fault.status, fault.detail, fault.code, str(fault)) == (status, detail, code, detail)


def test_a_refusal_has_its_pointers_and_the_time_to_retry() -> None:
    raw = b'{"detail":"bad","errors":[{"detail":"bad","pointer":"/messages/0"}]}'
    invalid = errors.parse_refusal(400, {}, raw)
    assert [(one.detail, one.pointer) for one in invalid.errors] == [("bad", "/messages/0")]
    limited = errors.parse_refusal(429, {"Retry-After": "7"}, b"{}")
    assert isinstance(limited, Limited)
    assert limited.retry_after_s == 7.0
