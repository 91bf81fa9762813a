"""Identifiers: their forms and order; no identifier needs escaping."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoin_protocol import ids
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import RunId, SessionId

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


def test_a_turn_of_a_run_has_a_name_from_which_both_are_read() -> None:
    run = ids.RunId("run_01m8qjg4hmhec6bc0rm16rdcw2")
    for turn in (0, 1, 7, 999_999):
        assert ids.parse_turn_id(ids.turn_id(run, turn)) == (run, turn)
    assert ids.turn_id(run, 0) == run
    for text in (
        "",
        "run_",
        "trip.1",
        "run_a.0",
        "run_a.01",
        "run_a.-1",
        "run_a.1000000",
        "run_a.b.1",
        "run_.1",
        "run_a.²",
    ):
        assert ids.parse_turn_id(text) == (text, 0)


def test_a_runs_approvals_are_told_apart_and_the_same_after_a_crash() -> None:
    run = ids.new_run_id(1, bytes(10))
    assert [ids.approval_id(run, number) for number in (0, 1)] == [f"apr_{run[4:]}_0", f"apr_{run[4:]}_1"]
    assert ids.approval_id(run, 1) == ids.approval_id(RunId(str(run)), 1)


@pytest.mark.parametrize("text", ["a", "A-z_0", "x" * 64, "-", "_"])
def test_names_that_may_be_given(text: str) -> None:
    assert ids.agent_name(text) == text
    assert ids.session_id(text * 2) == text * 2


@pytest.mark.parametrize("text", ["", "a.b", "a b", "a\n", "*", ">", "ä", "a/b", "x" * 65, "%41"])
def test_agents_names_that_may_not(text: str) -> None:
    with pytest.raises(Invalid, match="agent"):
        ids.agent_name(text)


@pytest.mark.parametrize(
    "text", ["user:123", "a.b@c", "two words", "Jürgen", "会話", "...", "%41", "a?b#c", "*", "😀", "x" * 256]
)
def test_session_ids_of_other_systems(text: str) -> None:
    assert ids.session_id(text) == text


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a/b", "a\\b", " a", "a ", "a\n", "a\x7f", "\ud800", "a\u2028b", "\u202ea", "x" * 257],
)
def test_session_ids_that_no_path_or_header_carries(text: str) -> None:
    with pytest.raises(Invalid, match="1 to 256 printable characters") as refused:
        ids.session_id(text)
    assert refused.value.pointer == "/id"


@given(
    st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="/\\."), min_size=1, max_size=256)
)
def test_a_header_carries_every_session_id(text: str) -> None:
    value = ids.to_header(ids.session_id(text))
    assert value.isascii()
    assert value.isprintable()
    assert ids.from_header(value) == text


def test_a_header_holds_plain_ids_as_they_are() -> None:
    assert ids.to_header(SessionId("user:1 @b")) == "user:1 @b"
    assert ids.to_header(SessionId("100% ü")) == "100%25 %C3%BC"
    with pytest.raises(Invalid):
        ids.from_header("a%2Fb")


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10), st.integers(1, ids.SHARDS_MAX))
def test_a_runs_id_says_its_shard_and_everything_else_as_before(
    time_ms: int, salt: bytes, shards: int
) -> None:
    run = ids.new_run_id(time_ms, salt, tuple(range(shards)))
    assert 0 <= ids.shard_of(run) < shards
    assert ids.run_created_ms(run) == time_ms
    assert ids.run_of_approval(ids.approval_id(run, 3)) == run
    assert ids.is_approval_of(ids.approval_id(run, 3), run)
    assert ids.shard_of(ids.new_run_id(time_ms, salt, (7,))) == 7
    assert ids.new_run_id(time_ms, salt, (0,)) == ids.new_run_id(time_ms, salt)


def test_the_randomness_draws_all_shards() -> None:
    drawn = {ids.shard_of(ids.new_run_id(1, bytes([0] * 9 + [byte]), (0, 2, 5))) for byte in range(256)}
    assert drawn == {0, 2, 5}


@pytest.mark.parametrize(
    "id",
    ["run_doctor", "r-1", "run_1-2", f"run_{'0' * 26}-0", f"run_{'0' * 26}-256", f"run_{'0' * 26}-x", ""],
)
def test_any_other_id_is_on_the_first_shard(id: str) -> None:
    assert ids.shard_of(RunId(id)) == 0
