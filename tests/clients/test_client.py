"""The Python client against real gateways and runners."""

from collections.abc import AsyncIterator

import pytest

from rejoin_client import (
    Answer,
    Client,
    Conflict,
    Data,
    Event,
    Finish,
    Invalid,
    NotFound,
    Start,
    SteeringMessage,
    TextDelta,
    ToolApprovalRequest,
    ToolInputAvailable,
    ToolOutputAvailable,
    ToolOutputDenied,
)
from tests.support.system.local_system import LocalSystem


@pytest.fixture
async def client(system: LocalSystem) -> AsyncIterator[Client]:
    await system.runner()
    async with Client(await system.gateway(), agent=system.agent) as one:
        yield one


async def read(answer: Answer | None) -> list[Event]:
    assert answer is not None
    async with answer:
        return [event async for event in answer]


def said(events: list[Event]) -> str:
    return "".join(event.delta for event in events if isinstance(event, TextDelta))


async def asked(client: Client, session: str) -> ToolApprovalRequest:
    events = await read(await client.chat.send(session, "delete notes.txt"))
    [question] = [event for event in events if isinstance(event, ToolApprovalRequest)]
    return question


async def test_an_answer_is_typed_events_and_the_thread_has_it(system: LocalSystem, client: Client) -> None:
    session = system.fresh("s")
    answer = await client.chat.send(session, "count 5")
    assert (answer.session, answer.run[:4]) == (session, "run_")
    events = await read(answer)
    assert isinstance(events[0], Start)
    assert isinstance(events[-1], Finish)
    assert said(events) == "1 2 3 4 5"
    thread = await client.threads.get(session)
    assert [message["role"] for message in thread.messages] == ["user", "assistant"]
    assert thread.messages[1]["id"] == events[0].message_id
    assert not thread.active


async def test_operations_arrive_only_if_requested(system: LocalSystem, client: Client) -> None:
    for operations in (False, True):
        answer = await client.chat.send(system.fresh("s"), "weather Paris", operations=operations)
        kinds = {
            event.data["type"]
            for event in await read(answer)
            if isinstance(event, Data) and event.type == "data-operation"
        }
        assert ("tool_call" in kinds) == operations


async def test_sending_the_same_message_twice_is_sending_it_once(system: LocalSystem, client: Client) -> None:
    session, id = system.fresh("s"), system.fresh("m")
    answers = [await client.chat.send(session, "count 3", message_id=id) for _ in range(2)]
    assert answers[0].run == answers[1].run
    assert await read(answers[0]) == await read(answers[1])
    with pytest.raises(Conflict):
        await client.chat.send(session, "count 4", message_id=id)
    assert len((await client.threads.get(session)).messages) == 2


@pytest.mark.parametrize(("approved", "kind"), [(True, ToolOutputAvailable), (False, ToolOutputDenied)])
async def test_a_decision_is_followed_by_the_rest(
    system: LocalSystem, client: Client, approved: bool, kind: type[Event]
) -> None:
    session = system.fresh("s")
    question = await asked(client, session)
    decided = await client.chat.approve(session, question.approval_id, approved=approved, reason="because")
    events = await read(decided)
    assert any(isinstance(event, kind) for event in events)
    with pytest.raises(Conflict):
        await client.chat.approve(session, question.approval_id, approved=not approved)
    [_, message] = (await client.threads.get(session)).messages
    [call] = [part for part in message["parts"] if part["type"] == "tool-delete"]
    assert call["approval"]["reason"] == "because"


@pytest.mark.feature("F80")
async def test_resume_returns_none_without_a_running_run(system: LocalSystem, client: Client) -> None:
    """And the running answer when something does, whole or behind a cursor."""
    session = system.fresh("s")
    first = await client.chat.send(session, "count 30 every 20 ms")
    seen: list[Event] = []
    async with first:
        async for event in first:
            seen.append(event)
            if isinstance(event, TextDelta):
                break
    rest = await client.chat.resume(session, cursor=first.cursor)
    whole = await read(await client.chat.resume(session))
    assert seen + await read(rest) == whole
    assert said(whole) == " ".join(str(number) for number in range(1, 31))
    assert await client.chat.resume(session) is None
    again = await client.chat.resume(session, cursor=first.cursor)
    assert seen + await read(again) == whole


async def test_stop_ends_the_run_once(system: LocalSystem, client: Client) -> None:
    session = system.fresh("s")
    answer = await client.chat.send(session, "count 1000 every 20 ms")
    async with answer:
        async for event in answer:
            if isinstance(event, TextDelta):
                break
        assert await client.chat.stop(session)
        events = [event async for event in answer]
    assert [type(event).__name__ for event in events[-2:]][-1] == "Finish"
    assert "Abort" in [type(event).__name__ for event in events]
    assert not await client.chat.stop(session)


async def test_a_stop_says_what_the_user_has_seen_and_may_come_before_its_message(
    system: LocalSystem, client: Client
) -> None:
    session, seen = system.fresh("s"), {"type": "text", "text": "1 2"}
    for by_run in (False, True):
        async with await client.chat.send(session, "count 1000 every 20 ms") as answer:
            text = ""
            async for event in answer:
                text += event.delta if isinstance(event, TextDelta) else ""
                if text.startswith("1 2 3"):
                    break
            if by_run:
                assert await client.executions.interrupt(answer.run, last_part=seen)
            else:
                assert await client.chat.stop(session, last_part=seen)
            assert [event async for event in answer]
        message = (await client.threads.get(session)).messages[-1]
        assert [part["text"] for part in message["parts"] if part["type"] == "text"] == ["1 2"]
    assert not await client.chat.stop(session, message_id="later")
    stopped = await read(await client.chat.send(session, "count 3", message_id="later"))
    assert "Abort" in [type(event).__name__ for event in stopped]


async def test_executions_are_started_watched_decided_and_interrupted(
    system: LocalSystem, client: Client
) -> None:
    started = await client.executions.start("delete notes.txt", session=system.fresh("s"))
    before = await read(started)
    standing = await client.executions.get(started.run)
    assert (standing.status, standing.state, standing.agent_id) == ("suspended", "suspended", system.agent)
    [question] = standing.pending_approvals
    assert (question.tool_name, question.input) == ("delete", {"file": "notes.txt"})
    await client.executions.approve(started.run, question.tool_call_id, approved=True)
    followed = await read(await client.executions.stream(started.run, follow=True))
    assert followed[: len(before)] == before
    assert any(isinstance(event, ToolOutputAvailable) for event in followed)
    standing = await client.executions.get(started.run)
    assert standing.state == "completed"
    assert standing.usage.output_tokens > 0
    assert not await client.executions.interrupt(started.run)
    with pytest.raises(NotFound, match="run_nobody"):
        await client.executions.get("run_nobody")


async def test_threads_are_listed_forked_and_deleted(system: LocalSystem, client: Client) -> None:
    session = system.fresh("s")
    for text, answer in (("count 1", "1"), ("count 2", "1 2")):
        assert await (await client.chat.send(session, text)).text() == answer
    thread = await client.threads.get(session)
    fork = await client.threads.fork(session, thread.messages[2]["id"], into=f"{session}-fork")
    assert (fork.id, fork.message_count) == (f"{session}-fork", 2)
    assert (await client.threads.get(fork.id)).messages == thread.messages[:2]
    newest = await client.threads.list(limit=1)
    assert len(newest.threads) == 1
    assert newest.next is not None
    older = await client.threads.list(limit=1, before=newest.next)
    assert older.threads[0].id != newest.threads[0].id
    await client.threads.delete(fork.id)
    with pytest.raises(NotFound):
        await client.threads.delete(fork.id)


async def test_what_is_wrong_is_named(client: Client) -> None:
    with pytest.raises(Invalid) as fault:
        await client.chat.send("s", [{"type": "odd"}])
    assert [one.pointer for one in fault.value.errors] == ["/messages/0/parts/0"]
    assert fault.value.status == 400
    assert fault.value.code == "bad_request"


@pytest.mark.feature("F106")
async def test_a_message_steers_the_run_that_works(system: LocalSystem, client: Client) -> None:
    session = system.fresh("s")
    answer = await client.chat.send(session, "sleep 1")
    async with answer:
        async for event in answer:
            if isinstance(event, ToolInputAvailable):
                assert await client.chat.steer(session, "weather Oslo", message_id="m-steer") is None
                assert await client.chat.steer(session, "weather Oslo", message_id="m-steer") is None
                break
        rest = [event async for event in answer]
    assert [event.id for event in rest if isinstance(event, SteeringMessage)] == ["m-steer"]
    assert said(rest).startswith("It is ")
    idle = await client.chat.steer(session, "hello")
    assert said(await read(idle)).startswith("You said: hello")
