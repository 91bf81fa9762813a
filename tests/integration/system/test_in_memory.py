"""Gateway and runner need nothing but their ports: on the doubles they answer as on NATS and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from rejoin_protocol.file_formats import to_data_url
from rejoin_protocol.file_ids import parse_stored_url
from tests.support.clients.attachments import PNG
from tests.support.system.in_memory_system import InMemorySystem
from tests.support.system.local_system import Answer, read_frames


@pytest.fixture
async def system() -> AsyncIterator[InMemorySystem]:
    async with asyncio.timeout(30), InMemorySystem() as system:
        yield system


async def test_a_chat_is_answered_and_is_in_the_history(system: InMemorySystem) -> None:
    await system.runner()
    base, other = await system.gateway(), await system.gateway()
    session = system.fresh("s")
    answer = await system.post(base, system.chat(session, "count 5"))
    assert (answer.status, answer.complete, answer.text) == (200, True, "1 2 3 4 5")
    messages = (await system.get(f"{other}/api/agents/{system.agent}/{session}")).json["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert (await system.get(f"{other}/health/ready")).status == 200


async def test_a_tool_waits_for_its_approval(system: InMemorySystem) -> None:
    await system.runner()
    base, session = await system.gateway(), system.fresh("s")
    requested = await system.post(base, system.chat(session, "delete notes.txt"))
    assert [chunk["type"] for chunk in requested.chunks].count("tool-approval-request") == 1
    assert requested.chunks[-1]["finishReason"] == "tool-calls"
    decided = await system.post(base, await system.decision(base, session, approved=True))
    assert decided.complete
    [output] = [chunk for chunk in decided.chunks if chunk["type"] == "tool-output-available"]
    assert output["output"] == "notes.txt is deleted."


async def test_a_run_is_interrupted(system: InMemorySystem) -> None:
    await system.runner()
    base, session = await system.gateway(), system.fresh("s")
    async with system.http.post(f"{base}/api/chat", json=system.chat(session, "sleep 600")) as response:
        async for _ in read_frames(response, lambda frame: b"tool-input-available" in frame.data):
            pass
        async with system.http.post(f"{base}/api/chat/{session}/stop") as stopped:
            assert (await stopped.json())["interrupted"]
        rest = await response.read()
    assert b'"type":"abort"' in rest
    assert rest.endswith(b"data: [DONE]\n\n")


async def test_a_stream_is_resumed_at_another_gateway_byte_for_byte(system: InMemorySystem) -> None:
    await system.runner()
    base, other = await system.gateway(), await system.gateway()
    session = system.fresh("s")
    body = system.chat(session, "count 20 every 20 ms")
    async with system.http.post(f"{base}/api/chat", json=body) as response, asyncio.TaskGroup() as group:
        whole = group.create_task(Answer.of(response))
        async with system.http.get(f"{other}/api/chat/{session}/stream") as cut:
            frames = [frame async for frame in read_frames(cut, lambda frame: b'"delta":"7 ' in frame.data)]
        resumed = await system.get(f"{other}/api/chat/{session}/stream?cursor={frames[-1].id}")
    assert whole.result().complete
    assert frames + resumed.frames == whole.result().frames


async def test_a_draining_runner_hands_its_run_over(system: InMemorySystem) -> None:
    """The request is delivered again, and the next attempt continues from the log."""
    first = await system.runner()
    base, session = await system.gateway(), system.fresh("s")
    body = system.chat(session, "count 40 every 20 ms")
    async with system.http.post(f"{base}/api/chat", json=body) as response:
        async for _ in read_frames(response, lambda frame: b"text-delta" in frame.data):
            pass
        first.drain()
        await system.runner()
        rest = await response.read()
    assert rest.endswith(b"data: [DONE]\n\n")
    [_, answer] = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]
    assert "".join(part.get("text", "") for part in answer["parts"]).endswith("39 40")


async def test_an_attachment_is_stored_and_served(system: InMemorySystem) -> None:
    await system.runner()
    base, session = await system.gateway(), system.fresh("s")
    body = system.chat(session, "look")
    body["messages"][0]["parts"].append(
        {"type": "file", "mediaType": "image/png", "url": to_data_url("image/png", PNG)}
    )
    assert (await system.post(base, body)).complete
    messages = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]
    url = messages[0]["parts"][1]["url"]
    assert parse_stored_url(url) is not None
    assert (await system.get(f"{base}{url}")).headers["content-type"] == "image/png"
    assert await system.files.sweep(0) == 0
