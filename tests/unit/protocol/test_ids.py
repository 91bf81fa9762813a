"""Identifiers: their shapes, their order, and that none of them needs escaping anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rejoin_protocol import ids
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import RunId

times = st.integers(0, 2**48 - 1)
randomness = st.binary(min_size=ids.RANDOM_BYTES, max_size=ids.RANDOM_BYTES)


@given(times, randomness, times, randomness)
def test_ulids_sort_by_time_then_by_randomness(one: int, salt: bytes, other: int, pepper: bytes) -> None:
    first, second = ids.ulid(one, salt), ids.ulid(other, pepper)
    assert len(first) == 26
    assert ((one, salt) < (other, pepper)) == (first < second)


@given(times, randomness)
def test_a_run_says_when_it_was_made(time_ms: int, salt: bytes) -> None:
    assert ids.run_created_ms(ids.new_run_id(time_ms, salt)) == time_ms


def test_a_ulid_is_the_one_of_the_specification() -> None:
    """01ARZ3NDEKTSV4RRFFQ69G5FAV, the example of the ULID specification."""
    text = "01arz3ndektsv4rrffq69g5fav"
    number = 0
    for letter in text:
        number = number * 32 + ids._CROCKFORD.index(letter)
    time_ms, random = number >> 80, (number & (2**80 - 1)).to_bytes(10)
    assert ids.ulid(time_ms, random) == text


@given(times, randomness)
def test_an_id_stands_in_urls_and_subjects_as_it_is(time_ms: int, salt: bytes) -> None:
    run = ids.new_run_id(time_ms, salt)
    message = ids.new_message_id(time_ms, salt)
    assert run.startswith("run_")
    assert message.startswith("msg_")
    for one in (run, message, ids.approval_id(run, 3)):
        assert str(ids.session_id(one)) == str(one)


def test_a_runs_approvals_are_told_apart_and_the_same_after_a_crash() -> None:
    run = ids.new_run_id(1, bytes(10))
    assert [ids.approval_id(run, number) for number in (0, 1)] == [f"apr_{run[4:]}_0", f"apr_{run[4:]}_1"]
    assert ids.approval_id(run, 1) == ids.approval_id(RunId(str(run)), 1)


@pytest.mark.parametrize("text", ["a", "A-z_0", "x" * 64, "-", "_"])
def test_names_that_may_be_given(text: str) -> None:
    assert ids.agent_name(text) == text
    assert ids.session_id(text * 2) == text * 2


@pytest.mark.parametrize("text", ["", "a.b", "a b", "a\n", "*", ">", "ä", "a/b", "x" * 129, "%41"])
def test_names_that_may_not(text: str) -> None:
    with pytest.raises(Invalid, match="session id") as refused:
        ids.session_id(text)
    assert refused.value.pointer == "/id"
    with pytest.raises(Invalid, match="agent"):
        ids.agent_name(text)


def test_an_agents_name_is_shorter_than_a_session_id() -> None:
    with pytest.raises(Invalid):
        ids.agent_name("x" * 65)
    assert ids.session_id("x" * 128)
