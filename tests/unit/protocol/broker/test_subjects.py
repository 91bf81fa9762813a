"""Subjects: each is parsed back to its parts, is unique, and matches its filter."""

import string
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoin_protocol import file_ids, ids
from rejoin_protocol.broker import subjects
from rejoin_protocol.ids import AgentName, RunId

agents = st.from_regex(ids._AGENT, fullmatch=True).map(AgentName)
runs = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=40).map(RunId)
turns = st.integers(0, 10**9)

PARSERS: list[Callable[[str], object]] = [
    subjects.parse_request,
    subjects.parse_consumer,
    subjects.parse_log,
    subjects.parse_live,
    subjects.parse_agent_key,
    subjects.parse_file,
]


def matches(subject: str, pattern: str) -> bool:
    """The broker's own rule: `*` is one token, `>` the rest."""
    said, wanted = subject.split("."), pattern.split(".")
    if wanted[-1] == ">":
        said, wanted = said[: len(wanted) - 1] if len(said) >= len(wanted) else [], wanted[:-1]
    return len(said) == len(wanted) and all(w in ("*", s) for s, w in zip(said, wanted, strict=True))


@given(agents, runs, turns)
def test_a_name_is_read_back_as_it_was_built(agent: AgentName, run: RunId, turn: int) -> None:
    assert subjects.parse_request(subjects.request(agent, run, turn)) == (agent, run, turn)
    assert subjects.parse_consumer(subjects.consumer(agent)) == agent
    assert subjects.parse_log(subjects.log(run)) == run
    assert subjects.parse_live(subjects.live(run)) == run
    assert subjects.parse_agent_key(subjects.agent_key(agent)) == agent


@given(st.binary(), st.integers(0, 10**6))
def test_a_chunk_of_a_file_is_read_back_and_matches_its_files_filter(data: bytes, number: int) -> None:
    id = file_ids.file_id(None, data)
    subject = subjects.file("0123456789abcdef", id, number)
    assert subjects.parse_file(subject) == ("0123456789abcdef", id, number)
    assert matches(subject, subjects.FILE_SUBJECTS)
    assert matches(subject, subjects.file_chunks("0123456789abcdef", id))
    assert not matches(subject, subjects.file_chunks("0123456789abcdee", id))


@given(agents, agents, runs, turns)
def test_names_match_their_filters_and_no_others(
    agent: AgentName, other: AgentName, run: RunId, turn: int
) -> None:
    request, key = subjects.request(agent, run, turn), subjects.agent_key(agent)
    filters = [subjects.REQUEST_SUBJECTS, subjects.LOG_SUBJECTS, subjects.AGENTS_SUBJECTS]
    for number, subject in enumerate([request, subjects.log(run), key]):
        assert [matches(subject, one) for one in filters] == [number == at for at in range(3)]
    assert matches(request, subjects.requests_for(other)) == (agent == other)
    assert not any(matches(subjects.live(run), one) for one in filters)


@given(runs, runs)
def test_a_runs_log_and_its_copies_are_told_apart_and_found_together(run: RunId, other: RunId) -> None:
    assert not matches(subjects.segments(run), subjects.LOG_SUBJECTS), "they would be republished"
    assert matches(subjects.segments(run), subjects.SEGMENTS_SUBJECTS)
    assert not matches(subjects.log(run), subjects.SEGMENTS_SUBJECTS)
    for subject in (subjects.log(run), subjects.segments(run)):
        assert matches(subject, subjects.run_messages(other)) == (run == other)


@given(runs)
def test_the_republish_template_says_what_live_says(run: RunId) -> None:
    assert subjects.LIVE_TEMPLATE.replace(
        "{{wildcard(1)}}", subjects.log(run).split(".")[1]
    ) == subjects.live(run)


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("text", ["", ".", "x", "a.b", "a.b.c", "a.b.c.d", "a.b.c.d.e", "runner-", "run.a.b"])
def test_any_other_name_is_refused(parser: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # whichever: it is not ours
        parser(text)


def test_no_parser_reads_anothers_name() -> None:
    agent, run = AgentName("a"), RunId("r")
    built = [
        subjects.request(agent, run, 0),
        subjects.consumer(agent),
        subjects.log(run),
        subjects.live(run),
        subjects.agent_key(agent),
        subjects.file("t", file_ids.file_id(None, b""), 0),
    ]
    for number, text in enumerate(built):
        for at, parser in enumerate(PARSERS):
            if at != number:
                with pytest.raises(ValueError):  # noqa: PT011  # whichever: it is not ours
                    parser(text)
