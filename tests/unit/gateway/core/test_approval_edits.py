"""Changed arguments: what is taken, what is refused, and which field the error names."""

from typing import Any

import pytest

from rejoin_adapters.store_types import ApprovalRequest
from rejoin_gateway.core.approval_edits import check_edit
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import ApprovalId, CallId

SCHEMA = {
    "type": "object",
    "properties": {"to": {"type": "array", "items": {"type": "string"}}, "a/b~c": {"type": "integer"}},
    "required": ["to"],
    "additionalProperties": False,
}
REQUEST = ApprovalRequest(ApprovalId("a"), CallId("c"), "mail", {"to": ["x"]}, edit_schema=SCHEMA)
FIXED = ApprovalRequest(ApprovalId("a"), CallId("c"), "mail", {"to": ["x"]})


def test_arguments_that_fit_are_taken_in_one_order() -> None:
    taken = check_edit(REQUEST, approved=True, input={"to": ["y"], "a/b~c": 1}, pointer="/input")
    assert taken is not None
    assert list(taken.items()) == [("a/b~c", 1), ("to", ["y"])]


@pytest.mark.parametrize("request_", [REQUEST, FIXED])
@pytest.mark.parametrize("approved", [True, False])
def test_what_was_shown_is_no_change(request_: ApprovalRequest, *, approved: bool) -> None:
    assert check_edit(request_, approved=approved, input={"to": ["x"]}, pointer="") is None
    assert check_edit(request_, approved=approved, input=None, pointer="") is None
    assert check_edit(None, approved=approved, input={"to": ["y"]}, pointer="") is None


@pytest.mark.parametrize(
    ("shown", "input", "is_change"),
    [
        ({"n": 1}, {"n": True}, True),
        ({"n": [False]}, {"n": [0]}, True),
        ({"n": {"m": 0}}, {"n": {"m": False}}, True),
        ({"n": 1.0}, {"n": 1}, False),
        ({"n": [1, {"m": True}]}, {"n": [1, {"m": True}]}, False),
        ({"n": [1]}, {"n": [1, 1]}, True),
    ],
)
def test_a_number_is_no_boolean(shown: Any, input: Any, *, is_change: bool) -> None:
    """JavaScript writes 1.0 as 1, so that is no change."""
    request = ApprovalRequest(ApprovalId("a"), CallId("c"), "mail", shown, edit_schema={"type": "object"})
    assert check_edit(request, approved=True, input=input, pointer="") == (input if is_change else None)


@pytest.mark.parametrize(
    ("input", "pointer", "said"),
    [
        ({"to": ["y", 5]}, "/input/to/1", "5 is not of type 'string' at $.to[1]"),
        ({"to": [], "a/b~c": "1"}, "/input/a~1b~0c", "'1' is not of type 'integer'"),
        ({}, "/input", "'to' is a required property"),
        ({"to": [], "cc": 1}, "/input", "'cc' was unexpected"),
        ("all", "/input", "are an object"),
        ({"to": ["x" * 300_000]}, "/input", "at most 262144 bytes"),
        ({"to": [{"__proto__": 1}]}, "/input", "names a JavaScript prototype"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_their_place(input: Any, pointer: str, said: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_edit(REQUEST, approved=True, input=input, pointer="/input")
    assert refused.value.pointer == pointer
    assert said in refused.value.detail


def test_a_tool_that_allows_no_change_and_a_denial_say_so() -> None:
    with pytest.raises(Invalid, match="the arguments of mail cannot be changed"):
        check_edit(FIXED, approved=True, input={"to": ["y"]}, pointer="/input")
    with pytest.raises(Invalid, match="a denied call does not run"):
        check_edit(REQUEST, approved=False, input={"to": ["y"]}, pointer="/input")
