"""Interrupts reach a run in every state, from any gateway, once."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from rejoin_protocol.events import chunks
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest
from tests.support.system.local_system import Answer, LocalSystem, read_frames


class Endless:
    """A model that emits text until its stream is closed, and records the time of that."""

    def __init__(self) -> None:
        self.talking = asyncio.Event()
        self.closed = asyncio.Event()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model`."""
        del request
        try:
            yield chunks.TextStart(id="t")
            yield chunks.TextDelta(id="t", delta="word")
            self.talking.set()
            await asyncio.Event().wait()
        finally:
            self.closed.set()


async def stop(system: LocalSystem, base: str, session: str) -> Answer:
    async with system.http.post(f"{base}/api/chat/{session}/stop") as response:
        return await Answer.of(response)


async def history(system: LocalSystem, base: str, session: str) -> list[dict[str, Any]]:
    found = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json
    messages: list[dict[str, Any]] = found["messages"]
    return messages


def kinds(answer: Answer) -> list[str]:
    return [chunk["type"] for chunk in answer.chunks]


@pytest.mark.feature("F74")
async def test_a_model_call_is_cancelled_at_once_and_its_text_kept(system: LocalSystem) -> None:
    """Through another gateway than the one that streams."""
    model = Endless()
    await system.runner(
        [Agent(name=system.agent, model=model)], sweep_interval_s=3600
    )  # which would find it, later
    one, other = await system.gateway(), await system.gateway()
    session = system.fresh("s")
    async with asyncio.TaskGroup() as group:
        streamed = group.create_task(system.post(one, system.chat(session, "go on")))
        await model.talking.wait()
        assert (await stop(system, other, session)).json == {"success": True, "interrupted": True}
        async with asyncio.timeout(20):
            await model.closed.wait()
    answer = streamed.result()
    assert answer.complete
    assert kinds(answer)[-4:] == ["text-end", "abort", "finish-step", "finish"]
    [_, message] = await history(system, one, session)
    assert {"type": "text", "text": "word", "state": "done"} in message["parts"]
    assert (await stop(system, one, session)).json == {"success": True, "interrupted": False}


@pytest.mark.feature("F74")
async def test_a_tool_is_cancelled_and_its_call_closed(system: LocalSystem) -> None:
    await system.runner()
    base, session = await system.gateway(), system.fresh("s")
    async with system.http.post(f"{base}/api/chat", json=system.chat(session, "sleep 600")) as response:
        called = [
            frame async for frame in read_frames(response, lambda frame: b"message-metadata" in frame.data)
        ]
        assert (await stop(system, base, session)).json["interrupted"]
        rest = [frame async for frame in read_frames(response)]
    assert called
    assert b"tool-output-error" in rest[0].data
    assert rest[-1].data == b"[DONE]"
    [_, message] = await history(system, base, session)
    assert message["parts"][-1]["state"] == "output-error"


@pytest.mark.feature("F60")
async def test_a_suspended_run_is_ended_and_its_question_closed(system: LocalSystem) -> None:
    """After the interrupt a decision is refused, and the tool never runs."""
    await system.runner()
    base, session = await system.gateway(), system.fresh("s")
    await system.post(base, system.chat(session, "delete notes.txt"))
    [_, asked] = await history(system, base, session)
    assert (await stop(system, base, session)).json["interrupted"]
    await settled(system, base, session)
    [_, message] = await history(system, base, session)
    [part] = [part for part in message["parts"] if part["type"] == "tool-delete"]
    assert part["state"] == "output-denied"
    assert part["approval"]["approved"] is False
    waiting = next(part for part in asked["parts"] if part["type"] == "tool-delete")
    waiting["state"], waiting["approval"]["approved"] = "approval-responded", True
    late = await system.post(base, {"id": session, "messages": [asked], "messageId": asked["id"]})
    assert late.status == 409


async def settled(system: LocalSystem, base: str, session: str) -> None:
    """Wait until the session has no active run: follow its stream to the end."""
    answer = await system.get(f"{base}/api/chat/{session}/stream")
    assert answer.status in {200, 204}


@pytest.mark.feature("F75")
@pytest.mark.parametrize("busy", [{"whenBusy": "interrupt"}, {"interruptIfStreaming": True}])
async def test_a_second_message_may_stop_the_first_answer_and_is_answered(
    system: LocalSystem, busy: dict[str, Any]
) -> None:
    await system.runner()
    base, session = await system.gateway(), system.fresh("s")
    async with asyncio.TaskGroup() as group:
        first = system.chat(session, "count 1000 every 20 ms")
        async with system.http.post(f"{base}/api/chat", json=first) as response:
            async for _ in read_frames(response, lambda frame: b"text-start" in frame.data):
                pass
            second = group.create_task(system.post(base, system.chat(session, "count 3", **busy)))
            rest = [frame async for frame in read_frames(response)]
    assert any(b'"abort"' in frame.data for frame in rest)
    assert second.result().text == "1 2 3"
    roles = [message["role"] for message in await history(system, base, session)]
    assert roles == ["user", "assistant", "user", "assistant"]


async def test_a_session_that_nobody_knows_is_a_404(system: LocalSystem) -> None:
    assert (await stop(system, await system.gateway(), system.fresh("s"))).status == 404


@pytest.mark.feature("F74", "F86")
async def test_many_interrupts_at_once_are_one(system: LocalSystem) -> None:
    """The same answers, one `abort` in the log."""
    await system.runner()
    bases = [await system.gateway(), await system.gateway()]
    session = system.fresh("s")
    chat = system.chat(session, "count 1000 every 20 ms")
    async with asyncio.TaskGroup() as group, system.http.post(f"{bases[0]}/api/chat", json=chat) as response:
        async for _ in read_frames(response, lambda frame: b"text-start" in frame.data):
            pass
        stops = [group.create_task(stop(system, bases[number % 2], session)) for number in range(10)]
        rest = [frame async for frame in read_frames(response)]
    assert [b'"abort"' in frame.data for frame in rest].count(True) == 1
    assert {task.result().status for task in stops} == {200}
    assert any(task.result().json["interrupted"] for task in stops)


@pytest.mark.parametrize(("extra", "status"), [({"whenBusy": "reject"}, 409), ({"whenBusy": "later"}, 400)])
async def test_a_busy_session_says_no_if_it_is_asked_to(
    system: LocalSystem, extra: dict[str, str], status: int
) -> None:
    await system.runner()
    base, session = await system.gateway(), system.fresh("s")
    chat = system.chat(session, "count 1000 every 20 ms")
    async with system.http.post(f"{base}/api/chat", json=chat) as response:
        async for _ in read_frames(response, lambda frame: b"text-start" in frame.data):
            pass
        assert (await system.post(base, system.chat(session, "count 1", **extra))).status == status
        await stop(system, base, session)
        assert [frame async for frame in read_frames(response)][-1].data == b"[DONE]"
    assert len(await history(system, base, session)) == 2


async def test_an_idempotency_key_makes_two_requests_one(system: LocalSystem) -> None:
    await system.runner()
    base, session = await system.gateway(), system.fresh("s")
    key = {"Idempotency-Key": system.fresh("k")}
    answers = []
    for text in ("count 2", "count 2", "count 3"):
        chat = system.chat(session, text)
        chat["messages"][0]["id"] = f"{session}-m"
        async with system.http.post(f"{base}/api/chat", json=chat, headers=key) as response:
            answers.append(await Answer.of(response))
    first, again, other = answers
    assert first.raw == again.raw
    assert first.headers["x-workflow-run-id"] == again.headers["x-workflow-run-id"]
    assert other.status == 409
