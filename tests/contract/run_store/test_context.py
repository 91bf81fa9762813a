"""`RunStore` stores a run's context, the tools of its request and its usage, within bounds."""

from typing import Any

import pytest

from rejoin_adapters.history_bounds import HistoryBounds
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore
from rejoin_adapters.store_types import Regenerate
from rejoin_adapters.usage_types import TOKENS_MAX, RunUsage, parse_usage
from rejoin_protocol.ids import RunId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.request_options import AskedOutput, RequestOptions
from rejoin_protocol.request_tools import RequestTool
from tests.support.data.store_session import AGENT, DEFAULT, Chat, text_of

pytest_plugins = ("tests.support.data.store_fixtures",)

SEALED = bytes(range(256))
TOOLS = [
    RequestTool("locate", "Where is \u0000 the user? 🍲", {"type": "object", "properties": {"a": {}}}),
    RequestTool("confirm", "", {"type": "object"}),
]

OPTIONS = RequestOptions(
    "Be \u0000 kind. 🍲",
    temperature=0.5,
    stop=("END",),
    output=AskedOutput("place", "", {"type": "object"}),
    has_openai_tools=True,
)


async def test_a_run_has_the_context_it_came_with_and_the_next_one_has_none(chat: Chat) -> None:
    claim = await chat.claim((await chat.submit("one", context=SEALED)).run)
    assert claim.context == SEALED
    assert (await chat.claim(claim.run)).context == SEALED  # taken over
    await chat.end((await chat.claim(claim.run)).run)
    assert await chat.store.session_context(DEFAULT, chat.id) is None
    assert (await chat.claim(await chat.send("two"))).context is None


@pytest.mark.feature("F43")
async def test_a_session_gives_later_runs_the_context_it_was_to_remember(chat: Chat) -> None:
    run = (await chat.claim((await chat.submit("one", context=b"1", remember=True)).run)).run
    assert await chat.store.session_context(DEFAULT, chat.id) == b"1"
    await chat.end(run)
    claim = await chat.claim(await chat.send("two"))
    assert claim.context == b"1"
    await chat.end(claim.run)
    claim = await chat.claim((await chat.submit("three", context=b"3")).run)
    assert claim.context == b"3"
    assert await chat.store.session_context(DEFAULT, chat.id) == b"1"
    waiting = await chat.submit("four", context=b"4", remember=True)
    newer = await chat.submit("five", context=b"5", remember=True)
    assert await chat.store.session_context(DEFAULT, chat.id) == b"5"
    await chat.end(claim.run)
    claim = await chat.claim(waiting.run)
    assert claim.context == b"4"  # what it came with, not what came after it
    await chat.end(claim.run)
    assert (await chat.claim(newer.run)).context == b"5"


async def test_a_request_that_attaches_changes_no_context(chat: Chat) -> None:
    run = (await chat.submit("one", id="m", context=b"1", remember=True)).run
    again = await chat.submit("one", id="m", context=b"2", remember=True)
    assert not again.created
    assert await chat.store.session_context(DEFAULT, chat.id) == b"1"
    assert (await chat.claim(run)).context == b"1"


@pytest.mark.feature("F44")
async def test_of_a_run_that_is_over_no_context_is_left(postgres: PostgresRunStore) -> None:
    ended, cancelled = Chat(postgres), Chat(postgres)
    await ended.end((await ended.claim((await ended.submit("one", context=SEALED)).run)).run)
    run = (await cancelled.claim((await cancelled.submit("one", id="m", context=SEALED)).run)).run
    await cancelled.ask(run)
    await cancelled.suspend(run)
    left = "select to_json(count(*)) from runs where context is not null"
    assert await postgres.database.fetch_json(int, left) == 1
    await cancelled.submit("another", id="m", edit=True)
    assert await cancelled.state(run) is State.CANCELLED
    assert await postgres.database.fetch_json(int, left) == 0


@pytest.mark.parametrize(
    ("metadata", "usage"),
    [
        ({"usage": {"inputTokens": 5, "outputTokens": 7}}, RunUsage(5, 7)),
        ({"usage": {"inputTokens": 5}}, RunUsage(5, 0)),
        ({"usage": {"inputTokens": "5", "outputTokens": -1}}, RunUsage()),
        ({"usage": {"inputTokens": TOKENS_MAX, "outputTokens": 1.5}}, RunUsage()),
        ({"usage": [5, 7]}, RunUsage()),
        ("usage", RunUsage()),
        (None, RunUsage()),
        ({"\u0000": "\u0000", "usage": {"inputTokens": 1, "outputTokens": 2}}, RunUsage(1, 2)),
    ],
)
async def test_a_run_has_the_usage_that_its_answer_says(chat: Chat, metadata: Any, usage: RunUsage) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    assert run.usage == RunUsage()
    answer = chat.answer(run, "done") | {"metadata": metadata}
    assert parse_usage(answer) == usage
    await chat.store.end(run.id, run.attempt, State.COMPLETED, answer, None)
    assert (await chat.found(run)).usage == usage


async def test_usage_is_that_of_the_last_suspension_until_the_end(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    approvals = await chat.ask(run)
    used = {"metadata": {"usage": {"inputTokens": 1, "outputTokens": 2}}}
    await chat.store.suspend(run.id, run.attempt, chat.answer(run, "may I?") | used)
    assert (await chat.found(run)).usage == RunUsage(1, 2)
    run = (await chat.claim((await chat.decide(*approvals)).run)).run
    await chat.store.end(run.id, run.attempt, State.FAILED, None, "no")
    assert (await chat.found(run)).usage == RunUsage(1, 2)


@pytest.mark.parametrize(
    ("most", "texts"),
    [
        (None, ["a", "A", "b", "B", "c"]),
        (9, ["a", "A", "b", "B", "c"]),
        (5, ["a", "A", "b", "B", "c"]),
        (4, ["b", "B", "c"]),
        (3, ["b", "B", "c"]),
        (2, ["c"]),
        (1, ["c"]),
    ],
)
async def test_a_bounded_history_begins_with_a_users_message(
    chat: Chat, most: int | None, texts: list[str]
) -> None:
    for text in "ab":
        await chat.complete(text, text.upper())
    run = await chat.send("c")
    await chat.send("d")
    claim = await chat.store.claim(run.request, "runner", HistoryBounds(most))
    assert claim is not None
    assert [text_of(message) for message in claim.history] == texts


async def test_a_history_that_fits_may_begin_with_anything(chat: Chat) -> None:
    greeting = {"id": "g", "role": "assistant", "parts": [{"type": "text", "text": "hello"}]}
    run = (await chat.submit("one", imports=[greeting])).run
    claim = await chat.store.claim(run.request, "runner", HistoryBounds(2))
    assert claim is not None
    assert [text_of(message) for message in claim.history] == ["hello", "one"]


async def test_a_run_is_shown_with_its_times_and_its_runner(chat: Chat) -> None:
    run = await chat.send("one")
    listed = await chat.store.run_summary(DEFAULT, run.id)
    assert listed is not None
    assert (listed.run, listed.runner) == (run, None)
    await chat.claim(run)
    listed = await chat.store.run_summary(DEFAULT, run.id)
    assert listed is not None
    assert listed.runner == "runner"
    assert listed.created_at < listed.updated_at
    assert listed.run.agent == AGENT


async def test_a_run_that_is_gone_is_as_good_as_interrupted(chat: Chat) -> None:
    run = await chat.send("one")
    assert await chat.store.find_interrupted([run.id, RunId("run_none")]) == ["run_none"]
    assert await chat.store.logs_to_purge() == []


@pytest.mark.feature("F104")
async def test_a_run_has_the_tools_of_its_request_and_the_next_one_has_none(chat: Chat) -> None:
    claim = await chat.claim((await chat.submit("one", request_tools=TOOLS)).run)
    assert list(claim.request_tools) == TOOLS
    assert list((await chat.claim(claim.run)).request_tools) == TOOLS  # taken over
    await chat.end((await chat.claim(claim.run)).run)
    claim = await chat.claim(await chat.send("two"))
    assert list(claim.request_tools) == []
    await chat.end(claim.run)
    again = await chat.admit(Regenerate(), request_tools=TOOLS[:1])
    assert list((await chat.claim(again.run)).request_tools) == TOOLS[:1]


@pytest.mark.feature("F104")
async def test_a_request_that_attaches_changes_no_tools(chat: Chat) -> None:
    run = (await chat.submit("one", id="m", request_tools=TOOLS[:1])).run
    again = await chat.submit("one", id="m", request_tools=TOOLS)
    assert (again.created, again.run) == (False, run)
    assert list((await chat.claim(run)).request_tools) == TOOLS[:1]


@pytest.mark.feature("F104")
async def test_the_tools_outlive_a_suspension(chat: Chat) -> None:
    run = (await chat.claim((await chat.submit("one", request_tools=TOOLS)).run)).run
    [question] = await chat.ask(run)
    await chat.store.suspend(run.id, run.attempt, chat.answer(run, "?"))
    decided = await chat.decide(question)
    assert list((await chat.claim(decided.run)).request_tools) == TOOLS


@pytest.mark.feature("F104")
@pytest.mark.parametrize("end", [State.COMPLETED, State.FAILED, State.CANCELLED])
async def test_of_a_run_that_is_over_no_tools_are_left(postgres: PostgresRunStore, end: State) -> None:
    chat = Chat(postgres)
    run = (await chat.claim((await chat.submit("one", request_tools=TOOLS)).run)).run
    query = "select (request_tools is not null)::text from runs where id = $1"
    assert await postgres.database.fetch_text(query, run.id) == "true"
    await chat.end(run, state=end)
    assert await postgres.database.fetch_text(query, run.id) == "false"


async def test_a_run_has_the_options_of_its_request_and_the_next_one_has_none(chat: Chat) -> None:
    """Also after a takeover and a suspension, and not those of a request that attaches."""
    run = (await chat.submit("one", id="m", request_options=OPTIONS)).run
    again = await chat.submit("one", id="m", request_options=RequestOptions("Other."))
    assert (again.created, again.run) == (False, run)
    assert (await chat.claim(run)).request_options == OPTIONS
    taken = await chat.claim(run)  # taken over
    assert (taken.request_options, list(taken.request_tools)) == (OPTIONS, [])
    [question] = await chat.ask(taken.run)
    await chat.store.suspend(taken.run.id, taken.run.attempt, chat.answer(taken.run, "?"))
    decided = await chat.decide(question)
    claim = await chat.claim(decided.run)
    assert claim.request_options == OPTIONS
    await chat.end(claim.run)
    claim = await chat.claim(await chat.send("two"))
    assert claim.request_options == RequestOptions()
    await chat.end(claim.run)
    both = await chat.admit(Regenerate(), request_tools=TOOLS, request_options=OPTIONS)
    claim = await chat.claim(both.run)
    assert (claim.request_options, list(claim.request_tools)) == (OPTIONS, TOOLS)


@pytest.mark.parametrize("end", [State.COMPLETED, State.FAILED, State.CANCELLED])
async def test_of_a_run_that_is_over_no_options_are_left(postgres: PostgresRunStore, end: State) -> None:
    chat = Chat(postgres)
    run = (await chat.claim((await chat.submit("one", request_options=OPTIONS)).run)).run
    query = "select (request_options is not null)::text from runs where id = $1"
    assert await postgres.database.fetch_text(query, run.id) == "true"
    await chat.end(run, state=end)
    assert await postgres.database.fetch_text(query, run.id) == "false"
