"""The format of log records: headers, frames, audiences."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoin_protocol.log.cursor import Cursor
from rejoin_protocol.log.record import (
    Audience,
    Head,
    Mark,
    OperationSet,
    Record,
    View,
    contains,
    encode_frames,
    parse_head,
    skip_frames,
    split_events,
)

OPERATIONS = ["agent_initializing", "agent_thinking", "completion", "error", "status_update", "tool_call"]
numbers = st.integers(0, 10**15)
heads = st.builds(
    Head,
    *[numbers] * 6,
    st.sampled_from(Audience),
    st.sampled_from(Mark),
    numbers,
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
chunks = st.lists(st.dictionaries(st.text(), values, max_size=3).map(msgspec.json.encode), max_size=6)
batches = st.lists(st.tuples(st.sampled_from(Audience), st.integers(0, 5)), max_size=12)


def record(payload: bytes, *, prev: int = 0, index: int = 0, count: int = 0) -> Record:
    return Record(prev + 7, Head(prev, 1, index, count), payload)


@given(heads)
def test_a_header_is_read_as_it_was_written(head: Head) -> None:
    assert parse_head(str(head)) == head


@given(heads)
def test_words_that_a_later_version_adds_are_skipped(head: Head) -> None:
    assert parse_head(f"{head} more words") == head


@pytest.mark.parametrize(
    "text", ["", "1", "1 2 3 4 5 6 all -", "a 2 3 4 5 6 all - 0", "1 2 3 4 5 6 some - 0"]
)
def test_another_header_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # whichever: it is not ours
        parse_head(text)


@given(chunks, numbers, numbers)
def test_events_are_read_from_the_frames_they_were_put_in(batch: list[bytes], prev: int, index: int) -> None:
    payload = encode_frames(batch, prev=prev, index=index)
    assert list(split_events(record(payload))) == batch
    for number in range(len(batch)):
        assert b"id: %d-%d\n" % (prev, index + number) in payload


@given(chunks, st.data())
def test_skipping_frames_leaves_the_others_as_they_are(batch: list[bytes], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(batch)))
    payload = encode_frames(batch, prev=3, index=10)
    assert skip_frames(record(payload), count) == encode_frames(batch[count:], prev=3, index=10 + count)


def test_no_event_is_no_frame() -> None:
    assert encode_frames([], prev=1, index=1) == b""
    assert list(split_events(record(b""))) == []


@given(numbers, st.integers(0, 50), st.integers(0, 5), numbers, st.integers(0, 60))
def test_a_record_holds_the_cursors_of_its_events_and_no_others(
    prev: int, index: int, count: int, other: int, at: int
) -> None:
    one = record(b"", prev=prev, index=index, count=count)
    assert one.end == index + count
    assert all(contains(one, Cursor(prev, number)) for number in range(index, index + count))
    assert contains(one, Cursor(other, at)) == (other == prev and index <= at < index + count)


@given(batches, st.sets(st.sampled_from(["operations", "v7", "resets"])))
def test_a_view_counts_what_it_sees(batch: list[tuple[Audience, int]], wants: set[str]) -> None:
    """Against the plain way: looking at every event."""
    view = View(**{field: field in wants for field in ("operations", "v7", "resets")})
    shown = {
        Audience.ALL: True,
        Audience.OPERATIONS: "operations" in wants,
        Audience.V7: "v7" in wants,
        Audience.RESETS: "resets" in wants,
    }
    seen = dict.fromkeys(Audience, 0)
    index = 0
    for audience, count in batch:
        head = Head(
            0,
            1,
            index,
            count,
            operations=seen[Audience.OPERATIONS],
            v7=seen[Audience.V7],
            audience=audience,
            resets=seen[Audience.RESETS],
        )
        assert view.sees(head) == shown[audience]
        assert view.count_before(head) == sum(number for one, number in seen.items() if shown[one])
        seen[audience] += count
        assert view.count_through(head) == sum(number for one, number in seen.items() if shown[one])
        index += count


def test_a_header_without_the_newest_counts_is_read() -> None:
    assert parse_head("4 1 2 3 1 0 all - 0") == Head(4, 1, 2, 3, 1)
    newest = Head(4, 1, 2, 3, 1, resets=5)
    assert parse_head(str(newest)) == newest


def test_operations_are_for_everybody_where_the_api_documents_them() -> None:
    everybody = {
        one: [kind for kind in OPERATIONS if one.audience_of(kind) is Audience.ALL] for one in OperationSet
    }
    assert everybody == {
        OperationSet.NONE: [],
        OperationSet.LIFECYCLE: ["agent_initializing", "completion", "error"],
        OperationSet.PROGRESS: [
            "agent_initializing",
            "agent_thinking",
            "completion",
            "error",
            "status_update",
        ],
    }
    assert OperationSet.PROGRESS.audience_of("tool_call") is Audience.OPERATIONS
