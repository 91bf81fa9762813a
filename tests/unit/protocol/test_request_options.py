"""What a request sets for its run alone: bounds of its instructions, of its stops, and of a schema."""

from typing import Any

import msgspec
import pytest

from rejoin_protocol.errors import Invalid
from rejoin_protocol.limits import (
    REQUEST_INSTRUCTIONS_BYTES_MAX,
    REQUEST_TOOLS_BYTES_MAX,
    STOP_CHARS_MAX,
    STOPS_MAX,
)
from rejoin_protocol.request_options import (
    AskedOutput,
    RequestOptions,
    check_instructions,
    check_stops,
    parse_output,
)

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def refused(call: Any, *arguments: Any) -> str:
    with pytest.raises(Invalid) as fault:
        call(*arguments)
    return fault.value.pointer


def test_options_survive_storage_and_nothing_is_stored_of_none() -> None:
    options = RequestOptions("Be kind.", 0.5, 0.9, 10, ("END",), False, AskedOutput("a", "", SCHEMA), True)
    stored = msgspec.json.encode(options)
    assert msgspec.json.decode(stored, type=RequestOptions) == options
    assert msgspec.json.encode(RequestOptions()) == b"{}"
    assert msgspec.json.decode(b'{"instructions":"a","of a newer version":1}', type=RequestOptions) == (
        RequestOptions("a")
    )


def test_instructions_have_a_bound_in_bytes() -> None:
    most = "é" * (REQUEST_INSTRUCTIONS_BYTES_MAX // 2)
    assert check_instructions(most, "/instructions") == most
    assert refused(check_instructions, most + "a", "/instructions") == "/instructions"


def test_stops_are_one_text_or_a_few() -> None:
    assert check_stops("END", "/stop") == ("END",)
    assert check_stops(["a", "b"], "/stop") == ("a", "b")
    assert check_stops([], "/stop") == ()
    for wrong in (["a"] * (STOPS_MAX + 1), "a" * (STOP_CHARS_MAX + 1), [""]):
        assert refused(check_stops, wrong, "/stop") == "/stop"


def test_a_schema_has_a_name_and_is_of_an_object() -> None:
    read = parse_output("place", {"description": "Where.", "schema": SCHEMA, "strict": True}, "/f")
    assert read == AskedOutput("place", "Where.", SCHEMA)
    large = {"type": "object", "description": "a" * REQUEST_TOOLS_BYTES_MAX}
    outside = {"type": "object", "properties": {"a": {"$ref": "https://example.com/a"}}}
    for name, fields, place in (
        ("a b", {"schema": SCHEMA}, "/f/name"),
        (None, {"schema": SCHEMA}, "/f/name"),
        ("a", {"schema": SCHEMA, "description": 1}, "/f/description"),
        ("a", {}, "/f/schema"),
        ("a", {"schema": {"type": "array"}}, "/f/schema"),
        ("a", {"schema": large}, "/f/schema"),
        ("a", {"schema": outside}, "/f/schema"),
    ):
        assert refused(parse_output, name, fields, "/f") == place
