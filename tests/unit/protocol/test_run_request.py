"""Messages between gateway and runner in the broker are decoded to what was encoded."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoin_protocol import run_request
from rejoin_protocol.ids import AgentName, RunId
from rejoin_protocol.run_request import SILENT_MS, AgentEntry, RunRequest

words = st.text(max_size=10)


@given(st.builds(RunRequest, words.map(AgentName), words.map(RunId), st.integers(0, 2**31)))
def test_a_request_is_read_as_it_was_written(request: RunRequest) -> None:
    assert run_request.decode_request(run_request.encode(request)) == request


@given(st.builds(AgentEntry, words.map(AgentName), words, st.none() | st.dictionaries(words, words)))
def test_an_entry_is_read_as_it_was_written(entry: AgentEntry) -> None:
    assert run_request.decode_entry(run_request.encode(entry)) == entry


def test_the_words_on_the_wire() -> None:
    """They outlive a release: an old runner reads what a new gateway wrote, and the other way round."""
    assert (
        run_request.encode(RunRequest(AgentName("a"), RunId("r"), 2)) == b'{"agent":"a","run":"r","turn":2}'
    )
    assert run_request.encode(AgentEntry(AgentName("a"))) == b'{"name":"a"}'
    entry = AgentEntry(AgentName("a"), "d", {"type": "object"})
    assert run_request.encode(entry) == b'{"name":"a","description":"d","contextSchema":{"type":"object"}}'


@pytest.mark.parametrize(
    ("deployed_at_ms", "announced_at_ms", "yields"),
    [(1, 10, True), (2, 10, False), (3, 10, False), (1, 10 + SILENT_MS, False)],
)
def test_an_older_deploy_yields_to_a_newer_one_that_is_still_heard_of(
    deployed_at_ms: int, announced_at_ms: int, *, yields: bool
) -> None:
    known = AgentEntry(AgentName("a"), deployed_at_ms=2, announced_at_ms=10)
    mine = AgentEntry(AgentName("a"), deployed_at_ms=deployed_at_ms, announced_at_ms=announced_at_ms)
    assert mine.yields_to(known) is yields


def test_words_that_a_later_version_adds_are_skipped() -> None:
    later = b'{"agent":"a","run":"r","reason":"why"}'
    assert msgspec.json.decode(later, type=RunRequest) == RunRequest(AgentName("a"), RunId("r"), 0)
    assert run_request.decode_entry(b'{"name":"a","limits":{}}') == AgentEntry(AgentName("a"))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"agent":"a"}', b'{"agent":1,"run":"r"}'])
def test_anything_else_is_not_a_request(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(text, type=RunRequest)
