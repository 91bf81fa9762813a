"""Messages with `content`, `parts` or both, and the JSON pointer of each part."""

import pytest

from rejoin_gateway.api.shared.message_forms import (
    RunMessage,
    earlier_messages,
    has_message,
    last_user_message,
    part_pointers,
    parts_of,
    to_client_message,
)
from rejoin_protocol.errors import Invalid

A, B = ({"type": "text", "text": text} for text in "ab")


@pytest.mark.parametrize(
    ("said", "parts", "written"),
    [
        (RunMessage("user", "a"), [A], ["content"]),
        (RunMessage("user", "a", [A]), [A], ["parts/0"]),
        (RunMessage("user", "b", [A]), [B, A], ["content", "parts/0"]),
        (RunMessage("user", [A, B], [A]), [A, B, A], ["content/0", "content/1", "parts/0"]),
        (RunMessage("user", "", [B]), [B], ["parts/0"]),
        (RunMessage("user"), [], []),
    ],
)
def test_parts_and_their_places(said: RunMessage, parts: list[object], written: list[str]) -> None:
    assert parts_of(said) == parts
    assert part_pointers(said, "/m") == [f"/m/{place}" for place in written]


def test_the_last_message_of_the_user_is_the_one_that_is_asked() -> None:
    messages = [RunMessage("user", "a", id="m1"), RunMessage("user", "b"), RunMessage("assistant", "c")]
    assert last_user_message(messages, "fresh") == (to_client_message(messages[1], "fresh"), 1)
    assert [one.id for one in earlier_messages(messages, 2)] == ["m1", "imported_1"]
    with pytest.raises(Invalid):
        last_user_message(messages[2:], "fresh")


def test_a_user_s_message_is_more_than_its_answers() -> None:
    answer = {"type": "tool-x", "state": "approval-responded"}
    assert has_message(RunMessage("user", "a", [answer]))
    assert not has_message(RunMessage("user", None, [{"type": "step-start"}, answer]))
    assert not has_message(RunMessage("user"))
    assert not has_message(RunMessage("assistant", "a", [answer]))
