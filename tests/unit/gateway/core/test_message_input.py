"""Session ids of request bodies, and JSON pointers of errors."""

import uuid

import pytest

from rejoin_adapters.store_types import Owner
from rejoin_gateway.core.message_input import SessionBody, new_session_id, relocate_errors
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import TenantId, UserId

ANN = Owner(TenantId("t"), UserId("ann"))


def test_a_key_names_the_same_new_session_for_its_owner_alone() -> None:
    """And every name is a UUID of version 4."""
    made = new_session_id("key", ANN)
    assert made == new_session_id("key", ANN)
    others = {
        new_session_id("key", Owner(TenantId("t"))),
        new_session_id("other", ANN),
        new_session_id(),
        new_session_id(),
    }
    assert len(others | {made}) == 5
    assert all(uuid.UUID(one).version == 4 for one in others | {made})


def test_the_first_name_that_is_said_counts_and_is_checked() -> None:
    assert SessionBody(conversation_id="c", thread_id="t", id="i").session_id == "c"
    assert SessionBody(thread_id="t", id="i").session_id == "t"
    assert SessionBody(id="i").session_id == "i"
    assert SessionBody().session_id is None
    for body, pointer in ((SessionBody(thread_id="a/b"), "/threadId"), (SessionBody(id=""), "/id")):
        with pytest.raises(Invalid) as fault:
            assert body.session_id
        assert fault.value.pointer == pointer


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        ("/messages/1/parts/0", "/here"),
        ("/messages/1/parts/1/approval", "/there/approval"),
        ("/messages/1/parts/2", "/messages/1/parts/2"),
        ("/messages/1/id", "/messages/1/id"),
        ("", ""),
    ],
)
def test_a_fault_is_said_of_the_place_where_it_was_written(pointer: str, expected: str) -> None:
    with pytest.raises(Invalid) as fault, relocate_errors("/messages/1", ["/here", "/there"]):
        raise Invalid("odd", pointer)
    assert fault.value.pointer == expected
