"""Interrupts reach a run in every state, from any gateway, once."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from rejoin_protocol.events import chunks
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest

from tests.support.rig import Answer, Rig, read_frames


class Endless:
    """A model that talks until its stream is closed, and says when that was."""

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


async def stop(rig: Rig, base: str, session: str) -> Answer:
    async with rig.http.post(f"{base}/api/chat/{session}/stop") as response:
        return await Answer.of(response)


async def history(rig: Rig, base: str, session: str) -> list[dict[str, Any]]:
    found = (await rig.get(f"{base}/api/agents/{rig.agent}/{session}")).json
    messages: list[dict[str, Any]] = found["messages"]
    return messages


def kinds(answer: Answer) -> list[str]:
    return [chunk["type"] for chunk in answer.chunks]


async def test_f74_a_model_call_is_cancelled_at_once_and_its_text_kept(rig: Rig) -> None:
    """F74: through another gateway than the one that streams."""
    model = Endless()
    await rig.runner(
        [Agent(name=rig.agent, model=model)], sweep_interval_s=3600
    )  # which would find it, later
    one, other = await rig.gateway(), await rig.gateway()
    session = rig.fresh("s")
    async with asyncio.TaskGroup() as group:
        streamed = group.create_task(rig.post(one, rig.chat(session, "go on")))
        await model.talking.wait()
        assert (await stop(rig, other, session)).json == {"success": True, "interrupted": True}
        async with asyncio.timeout(20):
            await model.closed.wait()
    answer = streamed.result()
    assert answer.complete
    assert kinds(answer)[-4:] == ["text-end", "abort", "finish-step", "finish"]
    [_, message] = await history(rig, one, session)
    assert {"type": "text", "text": "word", "state": "done"} in message["parts"]
    assert (await stop(rig, one, session)).json == {"success": True, "interrupted": False}


async def test_f74_a_tool_is_cancelled_and_its_call_closed(rig: Rig) -> None:
    await rig.runner()
    base, session = await rig.gateway(), rig.fresh("s")
    async with rig.http.post(f"{base}/api/chat", json=rig.chat(session, "sleep 600")) as response:
        called = [
            frame async for frame in read_frames(response, lambda frame: b"message-metadata" in frame.data)
        ]
        assert (await stop(rig, base, session)).json["interrupted"]
        rest = [frame async for frame in read_frames(response)]
    assert called
    assert b"tool-output-error" in rest[0].data
    assert rest[-1].data == b"[DONE]"
    [_, message] = await history(rig, base, session)
    assert message["parts"][-1]["state"] == "output-error"


async def test_f60_a_suspended_run_is_ended_and_its_question_closed(rig: Rig) -> None:
    """F60: after the interrupt nobody can approve, and the tool never runs."""
    await rig.runner()
    base, session = await rig.gateway(), rig.fresh("s")
    await rig.post(base, rig.chat(session, "delete notes.txt"))
    [_, asked] = await history(rig, base, session)
    assert (await stop(rig, base, session)).json["interrupted"]
    await settled(rig, base, session)
    [_, message] = await history(rig, base, session)
    [part] = [part for part in message["parts"] if part["type"] == "tool-delete"]
    assert part["state"] == "output-denied"
    assert part["approval"]["approved"] is False
    waiting = next(part for part in asked["parts"] if part["type"] == "tool-delete")
    waiting["state"], waiting["approval"]["approved"] = "approval-responded", True
    late = await rig.post(base, {"id": session, "messages": [asked], "messageId": asked["id"]})
    assert late.status == 409


async def settled(rig: Rig, base: str, session: str) -> None:
    """Until nothing runs in the session: its stream, followed to the end, says so."""
    answer = await rig.get(f"{base}/api/chat/{session}/stream")
    assert answer.status in {200, 204}


@pytest.mark.parametrize("busy", [{"whenBusy": "interrupt"}, {"interruptIfStreaming": True}])
async def test_f75_a_second_message_may_stop_the_first_answer_and_is_answered(
    rig: Rig, busy: dict[str, Any]
) -> None:
    await rig.runner()
    base, session = await rig.gateway(), rig.fresh("s")
    async with asyncio.TaskGroup() as group:
        first = rig.chat(session, "count 1000 every 20 ms")
        async with rig.http.post(f"{base}/api/chat", json=first) as response:
            async for _ in read_frames(response, lambda frame: b"text-start" in frame.data):
                pass
            second = group.create_task(rig.post(base, rig.chat(session, "count 3", **busy)))
            rest = [frame async for frame in read_frames(response)]
    assert any(b'"abort"' in frame.data for frame in rest)
    assert second.result().text == "1 2 3"
    roles = [message["role"] for message in await history(rig, base, session)]
    assert roles == ["user", "assistant", "user", "assistant"]


async def test_a_session_that_nobody_knows_is_a_404(rig: Rig) -> None:
    assert (await stop(rig, await rig.gateway(), rig.fresh("s"))).status == 404


async def test_f74_f86_many_interrupts_at_once_are_one(rig: Rig) -> None:
    """F86: the same answers, one `abort` in the log."""
    await rig.runner()
    bases = [await rig.gateway(), await rig.gateway()]
    session = rig.fresh("s")
    chat = rig.chat(session, "count 1000 every 20 ms")
    async with asyncio.TaskGroup() as group, rig.http.post(f"{bases[0]}/api/chat", json=chat) as response:
        async for _ in read_frames(response, lambda frame: b"text-start" in frame.data):
            pass
        stops = [group.create_task(stop(rig, bases[number % 2], session)) for number in range(10)]
        rest = [frame async for frame in read_frames(response)]
    assert [b'"abort"' in frame.data for frame in rest].count(True) == 1
    assert {task.result().status for task in stops} == {200}
    assert any(task.result().json["interrupted"] for task in stops)


@pytest.mark.parametrize(("extra", "status"), [({"whenBusy": "reject"}, 409), ({"whenBusy": "later"}, 400)])
async def test_a_busy_session_says_no_if_it_is_asked_to(rig: Rig, extra: dict[str, str], status: int) -> None:
    await rig.runner()
    base, session = await rig.gateway(), rig.fresh("s")
    chat = rig.chat(session, "count 1000 every 20 ms")
    async with rig.http.post(f"{base}/api/chat", json=chat) as response:
        async for _ in read_frames(response, lambda frame: b"text-start" in frame.data):
            pass
        assert (await rig.post(base, rig.chat(session, "count 1", **extra))).status == status
        await stop(rig, base, session)
        assert [frame async for frame in read_frames(response)][-1].data == b"[DONE]"
    assert len(await history(rig, base, session)) == 2


async def test_an_idempotency_key_makes_two_requests_one(rig: Rig) -> None:
    """F12."""
    await rig.runner()
    base, session = await rig.gateway(), rig.fresh("s")
    key = {"Idempotency-Key": rig.fresh("k")}
    answers = []
    for text in ("count 2", "count 2", "count 3"):
        chat = rig.chat(session, text)
        chat["messages"][0]["id"] = f"{session}-m"
        async with rig.http.post(f"{base}/api/chat", json=chat, headers=key) as response:
            answers.append(await Answer.of(response))
    first, again, other = answers
    assert first.raw == again.raw
    assert first.headers["x-workflow-run-id"] == again.headers["x-workflow-run-id"]
    assert other.status == 409
