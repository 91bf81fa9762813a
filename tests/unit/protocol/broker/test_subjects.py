"""Subjects: each is parsed back to its parts, is unique, and matches its filter."""

import string
from collections.abc import Callable
from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoin_adapters.jetstream.setup import StreamSettings, stream_configs
from rejoin_protocol import file_ids, ids
from rejoin_protocol.broker import subjects
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import AgentName, RunId

NAMES = subjects.DEFAULT
agents = st.from_regex(ids._AGENT, fullmatch=True).map(AgentName)
runs = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=40).map(RunId)
turns = st.integers(0, 10**9)

PARSERS: list[Callable[[str], object]] = [
    NAMES.parse_request,
    subjects.parse_consumer,
    NAMES.parse_log,
    NAMES.parse_live,
    NAMES.parse_agent_key,
    NAMES.parse_file,
]


def matches(subject: str, pattern: str) -> bool:
    """The broker's own rule: `*` is one token, `>` the rest."""
    said, wanted = subject.split("."), pattern.split(".")
    if wanted[-1] == ">":
        said, wanted = said[: len(wanted) - 1] if len(said) >= len(wanted) else [], wanted[:-1]
    return len(said) == len(wanted) and all(w in ("*", s) for s, w in zip(said, wanted, strict=True))


@given(agents, runs, turns)
def test_a_name_is_read_back_as_it_was_built(agent: AgentName, run: RunId, turn: int) -> None:
    assert NAMES.parse_request(NAMES.request(agent, run, turn)) == (agent, run, turn)
    assert subjects.parse_consumer(subjects.consumer(agent)) == agent
    assert NAMES.parse_log(NAMES.log(run)) == run
    assert NAMES.parse_live(NAMES.live(run)) == run
    assert NAMES.parse_agent_key(NAMES.agent_key(agent)) == agent


@given(st.binary(), st.integers(0, 10**6))
def test_a_chunk_of_a_file_is_read_back_and_matches_its_files_filter(data: bytes, number: int) -> None:
    id = file_ids.file_id(None, data)
    subject = NAMES.file("0123456789abcdef", id, number)
    assert NAMES.parse_file(subject) == ("0123456789abcdef", id, number)
    assert matches(subject, NAMES.file_subjects)
    assert matches(subject, NAMES.file_chunks("0123456789abcdef", id))
    assert not matches(subject, NAMES.file_chunks("0123456789abcdee", id))


def may_match_one(pattern: str, other: str) -> bool:
    """Whether a subject exists that both patterns match."""
    one, two = pattern.split("."), other.split(".")
    return len(one) == len(two) and all(
        "*" in (word, of_other) or word == of_other for word, of_other in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("prefix", ["", "shop"])
def test_no_subject_belongs_to_two_streams(prefix: str) -> None:
    """The broker refuses streams whose subjects overlap, those of the shards too."""
    names = subjects.broker_names(prefix, shards=3)
    streams = {config["name"]: config["subjects"] for config in stream_configs(names, StreamSettings())}
    assert {names.log_stream(2), names.requests_stream(2)} < streams.keys()
    for (one, patterns), (two, others) in combinations(streams.items(), 2):
        both = [pair for pair in product(patterns, others) if may_match_one(*pair)]
        assert not both, (one, two)


@given(agents, runs, turns)
def test_a_prefix_separates_all_names(agent: AgentName, run: RunId, turn: int) -> None:
    """What one installation builds, another neither parses nor hears; each reads its own back."""
    one, two = subjects.broker_names("shop"), subjects.broker_names("shop2")
    chunk = ("0123456789abcdef", file_ids.file_id(None, b""), turn)
    for names in (one, two):
        assert names.parse_request(names.request(agent, run, turn)) == (agent, run, turn)
        assert names.parse_file(names.file(*chunk)) == chunk
    for names in (two, NAMES):
        for parser, subject in (
            (names.parse_request, one.request(agent, run, turn)),
            (names.parse_log, one.log(run)),
            (names.parse_live, one.live(run)),
            (names.parse_control, one.control(run)),
            (names.parse_agent_key, one.agent_key(agent)),
            (names.parse_file, one.file(*chunk)),
        ):
            with pytest.raises(ValueError):  # noqa: PT011  # whichever: it is not ours
                parser(subject)
            for pattern in (
                *(
                    names.request_subjects(),
                    names.log_subjects(),
                    names.segments_subjects(),
                    names.model_calls_subjects(),
                    names.live_subjects,
                ),
                *(names.control_subjects, names.agents_subjects, names.file_subjects, names.probe_subjects),
                f"{names.inbox('gateway')}.>",
            ):
                assert not matches(subject, pattern)


@given(
    st.integers(0, ids.SHARDS_MAX - 1),
    st.integers(0, ids.SHARDS_MAX - 1),
    agents,
    turns,
    st.sampled_from(["", "shop"]),
)
def test_each_subject_belongs_to_the_streams_of_its_shard_alone(
    shard: int, other: int, agent: AgentName, turn: int, prefix: str
) -> None:
    names = subjects.broker_names(prefix)
    run = ids.new_run_id(1, bytes(10), (shard,))
    for subject, filter_of in (
        (names.log(run), names.log_subjects),
        (names.segments(run), names.segments_subjects),
        (names.model_calls(run, 3), names.model_calls_subjects),
        (names.request(agent, run, turn), names.request_subjects),
    ):
        assert matches(subject, filter_of(shard))
        assert other == shard or not matches(subject, filter_of(other))
    assert matches(names.request(agent, run, turn), names.requests_for(agent, shard))
    assert names.parse_log(names.log(run)) == run
    assert names.parse_request(names.request(agent, run, turn)) == (agent, run, turn)
    assert matches(names.log(run), names.run_messages(run))
    assert other == shard or names.log_stream(shard) != names.log_stream(other)
    live = names.log(run).removeprefix(names.log_subjects(shard).partition("*")[0]).partition(".")[0]
    assert names.live_template.replace("{{wildcard(1)}}", live) == names.live(run)


@pytest.mark.parametrize("shards", [0, -1, 257])
def test_a_number_of_shards_has_bounds(shards: int) -> None:
    with pytest.raises(Invalid, match="REJOIN_LOG_SHARDS"):
        subjects.broker_names(shards=shards)


@pytest.mark.parametrize("prefix", ["a.b", "a b", "a_b", "*", ">", "run", "request", "$JS", "x" * 33, "ä"])
def test_a_prefix_that_would_meet_other_names_is_refused(prefix: str) -> None:
    with pytest.raises(Invalid, match="REJOIN_NATS_PREFIX"):
        subjects.broker_names(prefix)


@given(agents, agents, runs, turns)
def test_names_match_their_filters_and_no_others(
    agent: AgentName, other: AgentName, run: RunId, turn: int
) -> None:
    request, key = NAMES.request(agent, run, turn), NAMES.agent_key(agent)
    filters = [NAMES.request_subjects(), NAMES.log_subjects(), NAMES.agents_subjects]
    for number, subject in enumerate([request, NAMES.log(run), key]):
        assert [matches(subject, one) for one in filters] == [number == at for at in range(3)]
    assert matches(request, NAMES.requests_for(other)) == (agent == other)
    assert not any(matches(NAMES.live(run), one) for one in filters)


@given(runs, runs)
def test_a_runs_log_and_its_copies_are_told_apart_and_found_together(run: RunId, other: RunId) -> None:
    assert not matches(NAMES.segments(run), NAMES.log_subjects()), "they would be republished"
    assert matches(NAMES.segments(run), NAMES.segments_subjects())
    assert not matches(NAMES.log(run), NAMES.segments_subjects())
    assert not matches(NAMES.model_calls(run, 3), NAMES.log_subjects())
    assert matches(NAMES.model_calls(run, 3), NAMES.model_calls_subjects())
    assert matches(NAMES.model_calls(run, 3), NAMES.model_calls_of_run(other)) == (run == other)
    for subject in (NAMES.log(run), NAMES.segments(run), NAMES.model_calls(run, 3)):
        assert matches(subject, NAMES.run_messages(other)) == (run == other)


@given(runs)
def test_the_republish_template_says_what_live_says(run: RunId) -> None:
    assert NAMES.live_template.replace("{{wildcard(1)}}", NAMES.log(run).split(".")[1]) == NAMES.live(run)


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("text", ["", ".", "x", "a.b", "a.b.c", "a.b.c.d", "a.b.c.d.e", "runner-", "run.a.b"])
def test_any_other_name_is_refused(parser: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # whichever: it is not ours
        parser(text)


def test_no_parser_reads_anothers_name() -> None:
    agent, run = AgentName("a"), RunId("r")
    built = [
        NAMES.request(agent, run, 0),
        subjects.consumer(agent),
        NAMES.log(run),
        NAMES.live(run),
        NAMES.agent_key(agent),
        NAMES.file("t", file_ids.file_id(None, b""), 0),
    ]
    for number, text in enumerate(built):
        for at, parser in enumerate(PARSERS):
            if at != number:
                with pytest.raises(ValueError):  # noqa: PT011  # whichever: it is not ours
                    parser(text)
