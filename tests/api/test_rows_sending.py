"""Sending and streaming in every route family."""

import asyncio
import uuid
from typing import Any

import pytest

from rejoin_protocol.events import chunks
from rejoin_protocol.log.sse import SseFrame
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.model import ModelRequest
from tests.support.clients.api_families import (
    AGENT_CHAT,
    AISDK,
    FAMILIES,
    GRAPH,
    NAMELESS,
    PARTS,
    RUN,
    SESSION,
    ApiClient,
    Family,
    error_text,
    event_types,
)
from tests.support.models.scripted_models import GatedModel
from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.observation import read_log

HEADERS = {
    "cache-control": "no-cache, no-transform",
    "connection": "keep-alive",
    "x-accel-buffering": "no",
    "x-vercel-ai-ui-message-stream": "v1",
    "x-vercel-ai-data-stream": "v2",
}


def without_operations(answer: Answer) -> list[SseFrame]:
    """The frames that are the same in every API."""
    return [frame for frame in answer.frames if b'"type":"data-operation"' not in frame.data]


@pytest.mark.feature("F1")
@pytest.mark.parametrize("family", FAMILIES, ids=str)
async def test_a_message_is_answered_by_a_stream_of_valid_events(client: ApiClient, family: Family) -> None:
    """The events have the order that the protocol requires, and `[DONE]` is the last line."""
    answer = await client.say(family, client.session(), "count 3")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
    assert answer.complete
    for frame in answer.frames[:-1]:
        assert frame.id
        chunks.decode(frame.data)
    found = [one for one in event_types(answer) if one != "data-operation"]
    assert found[:2] == ["start", "start-step"]
    assert found[-2:] == ["finish-step", "finish"]
    assert answer.text == "1 2 3"
    assert b"null" not in answer.raw


@pytest.mark.feature("F2", "F3", "F10", "F11")
@pytest.mark.parametrize("family", FAMILIES, ids=str)
async def test_every_stream_has_the_promised_headers(client: ApiClient, family: Family) -> None:
    """On the message's own stream and on the resumed one, which may be another API's."""
    session = client.session()
    sent = await client.say(family, session, "count 2")
    run = sent.headers["x-workflow-run-id"]
    for path in (
        f"/api/chat/{session}/stream?startIndex=0",
        client.at(session, "/reconnect?startIndex=0"),
        f"/run/v1/conversations/{session}/stream?startIndex=0",
        f"/run/api/executions/{run}/stream",
    ):
        resumed = await client.get(path)
        for answer in (sent, resumed):
            assert HEADERS.items() <= answer.headers.items()
            assert answer.headers["x-workflow-run-id"] == run
            assert answer.headers["x-thread-id"] == answer.headers["x-conversation-id"] == session
        assert without_operations(resumed) == without_operations(sent)


@pytest.mark.feature("F9", "F10")
@pytest.mark.parametrize("family", NAMELESS, ids=str)
async def test_a_session_that_is_not_named_is_made(client: ApiClient, family: Family) -> None:
    """Twice: two different UUIDs, each of which holds its conversation."""
    made = [(await client.say(family, None, "count 1")).headers["x-thread-id"] for _ in range(2)]
    assert len(set(made)) == 2
    for session in made:
        assert uuid.UUID(session).version == 4
        assert await client.texts(session) == ["user: count 1", "assistant: 1"]


@pytest.mark.feature("F7")
async def test_the_shape_of_the_body_selects_the_family(client: ApiClient) -> None:
    """Each of three forms reaches its family; a body with `parts` and `messages` is refused."""
    session = client.session()
    text = [{"type": "text", "text": ""}]
    odd: list[tuple[Any, bool]] = [
        ({"parts": [{"type": "odd"}]}, True),
        ({"messages": [{"role": "user", "content": [{"type": "odd"}]}]}, False),
        ({"id": session, "messages": [{"id": "m", "role": "user", "parts": [{"type": "odd"}]}]}, False),
    ]
    for body, plain in odd:
        refused = await client.post("/api/chat", body)
        assert refused.status == 400
        assert isinstance(refused.json["error"], str) == plain
    both = await client.post("/api/chat", {"parts": text, "messages": [], "threadId": session})
    assert (both.status, both.json["detail"]) == (400, "a request has `parts` or `messages`, not both")
    for family in (PARTS, GRAPH, AISDK):
        assert (await client.say(family, session, "count 2")).text == "1 2"
    assert len(await client.messages(session)) == 6


@pytest.mark.feature("F8")
@pytest.mark.parametrize("path", ["/run/api/chat", "/api/chat", "/api/agent/chat/stream", "aisdk"])
async def test_of_a_known_session_only_the_new_turn_is_taken(client: ApiClient, path: str) -> None:
    """A client that sends all turns each time makes no duplicates; a new session gets them all, once."""
    session, turns = client.session(), []
    extra = {"id": session} if path == "aisdk" else {"conversationId": session}
    path = "/api/chat" if path == "aisdk" else path
    for number in (1, 2, 3):
        text = [{"type": "text", "text": f"count {number}"}]
        turns.append({"id": f"m{number}", "role": "user", "parts": text})
        assert (await client.post(path, {"messages": turns, **extra})).complete
        turns = await client.messages(session)
        assert [one["role"] for one in turns] == ["user", "assistant"] * number
    said = await client.texts(session)
    copy = client.session()
    new = {"id": "m4", "role": "user", "parts": [{"type": "text", "text": "count 4"}]}
    extra = {"id": copy} if "id" in extra else {"conversationId": copy}
    await client.post(path, {"messages": [*turns, new], **extra})
    assert await client.texts(copy) == [*said, "user: count 4", "assistant: 1 2 3 4"]


def changed(body: Any) -> Any:
    """The same message with other words."""
    if isinstance(body, dict):
        return {name: changed(value) for name, value in body.items()}
    if isinstance(body, list):
        return [changed(one) for one in body]
    return "count 4" if body == "count 3" else body


@pytest.mark.feature("F12")
@pytest.mark.parametrize("family", FAMILIES, ids=str)
async def test_the_same_message_twice_is_one_run(client: ApiClient, other: ApiClient, family: Family) -> None:
    """At once through two gateways, and after its answer was lost; with other words it is a conflict."""
    session, id = client.session(), f"m-{client.session()}"
    async with asyncio.TaskGroup() as group:
        pair = [group.create_task(one.say(family, session, "count 3", id=id)) for one in (client, other)]
    answers = [one.result() for one in pair] + [await other.say(family, session, "count 3", id=id)]
    assert (
        len({one.raw for one in answers}) == len({one.headers["x-workflow-run-id"] for one in answers}) == 1
    )
    assert answers[0].complete
    path = family.path.format(agent=client.system.agent, session=session)
    refused = await client.post(path, changed(family.body(session, "count 3", id)))
    assert refused.status == 409
    assert "taken" in error_text(refused, family)
    if not family.plain:
        assert refused.json["code"] == "conflict"
    assert await client.texts(session) == ["user: count 3", "assistant: 1 2 3"]


@pytest.mark.feature("F12")
@pytest.mark.parametrize("named", [True, False], ids=["named", "nameless"])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
async def test_the_same_idempotency_key_twice_is_one_run(
    client: ApiClient, other: ApiClient, family: Family, *, named: bool
) -> None:
    """Also without an id of the message or of the session: the client retries and knows no id."""
    if family is SESSION and not named:
        named = True
    session, key = client.session() if named else None, {"Idempotency_Key": client.session()}
    path = family.path.format(agent=client.system.agent, session=session)
    body = family.body(session, "count 3", None)
    async with asyncio.TaskGroup() as group:
        pair = [group.create_task(one.post(path, body, **key)) for one in (client, other)]
    answers = [one.result() for one in pair] + [await other.post(path, body, **key)]
    assert len({one.raw for one in answers}) == 1
    assert len({one.headers["x-workflow-run-id"] for one in answers}) == 1
    assert answers[0].text == "1 2 3"
    refused = await client.post(path, changed(body), **key)
    assert refused.status == 409
    assert await client.texts(answers[0].headers["x-thread-id"]) == ["user: count 3", "assistant: 1 2 3"]


@pytest.mark.feature("F12")
async def test_a_repeated_message_during_its_run_streams_the_same_run(system: LocalSystem) -> None:
    """As a client does that retries a POST whose connection broke: one run, one model call, every event."""
    gate = asyncio.Semaphore(2)
    asked: list[ModelRequest] = []
    await system.runner([Agent(name=system.agent, model=GatedModel(gate, 4, asked), text_interval_s=0)])
    client, again = ApiClient(system, await system.gateway()), ApiClient(system, await system.gateway())
    session = client.session()
    body = RUN.body(session, "hello", "m1")
    async with system.http.post(f"{client.base}/run/api/chat", json=body) as broken:
        run = broken.headers["x-workflow-run-id"]
        await broken.content.readany()
        broken.close()
    async with asyncio.TaskGroup() as group:
        retried = group.create_task(again.post("/run/api/chat", body))
        gate.release()
        gate.release()
    answer = retried.result()
    assert answer.headers["x-workflow-run-id"] == run
    assert (answer.text, answer.complete, len(asked)) == (" 0 1 2 3", True, 1)
    assert len(await client.messages(session)) == 2
    assert b"".join(one.payload for one in await read_log(system.nats_url, run)).startswith(answer.raw[:100])


@pytest.mark.feature("F13")
@pytest.mark.parametrize("family", [RUN, GRAPH, AGENT_CHAT, AISDK], ids=str)
async def test_without_a_users_message_there_is_nothing_to_answer(client: ApiClient, family: Family) -> None:
    """And nothing is stored."""
    session = client.session()
    for messages in ([], [{"id": "a", "role": "assistant", "parts": [{"type": "text", "text": "count 1"}]}]):
        refused = await client.post(family.path, family.body(session, "", None) | {"messages": messages})
        assert refused.status == 400
        assert "messages" in error_text(refused, family) or "user" in error_text(refused, family)
    assert (await client.get(client.at(session))).status == 404


@pytest.mark.feature("F14")
@pytest.mark.parametrize("family", FAMILIES, ids=str)
async def test_the_server_remembers_earlier_turns(system: LocalSystem, family: Family) -> None:
    """With only the id and the new message sent, the model sees the turns before."""
    gate = asyncio.Semaphore(2)
    asked: list[ModelRequest] = []
    await system.runner([Agent(name=system.agent, model=GatedModel(gate, 1, asked))])
    client = ApiClient(system, await system.gateway())
    session = client.session()
    for text in ("apple pie", "repeat my first word"):
        assert (await client.say(family, session, text)).text == " 0"
    seen = [
        (one["role"], part["text"].strip())
        for one in asked[1].history
        for part in one["parts"]
        if part["type"] == "text"
    ]
    assert seen == [("user", "apple pie"), ("assistant", "0"), ("user", "repeat my first word")]


@pytest.mark.feature("F24")
@pytest.mark.parametrize("family", FAMILIES, ids=str)
async def test_silence_is_broken_by_comments(system: LocalSystem, family: Family) -> None:
    """Never by an event."""
    gate = asyncio.Semaphore(0)
    await system.runner([Agent(name=system.agent, model=GatedModel(gate, 1))])
    client = ApiClient(system, await system.gateway(stream_heartbeat_s=0.05))
    session, raw = client.session(), b""
    url = client.base + family.path.format(agent=system.agent, session=session)
    async with system.http.post(url, json=family.body(session, "hello", None)) as response:
        while raw.count(b": keep-alive\n\n") < 2:
            raw += await response.content.readany()
        gate.release()
        raw += await response.read()
    assert b"ping" not in raw
    assert raw.endswith(b"data: [DONE]\n\n")


@pytest.mark.feature("F42")
@pytest.mark.parametrize("family", FAMILIES, ids=str)
async def test_an_unknown_agent_is_refused_before_anything_is_stored(
    system: LocalSystem, family: Family
) -> None:
    client = ApiClient(system, await system.gateway(default_agent=None))
    session = client.session()
    refusals: list[Answer] = []
    for agent in ("nobody", "no.such.agent", "x" * 65):
        path = family.path.format(agent=agent, session=session)
        refusals.append(await client.post(path, family.body(session, "count 1", None), x_agent_id=agent))
    for refused in refusals:
        assert refused.status == 404
        assert "agent" in error_text(refused, family)
    if family is not SESSION:
        unsaid = await client.post(family.path, family.body(session, "count 1", None))
        assert unsaid.status == 400
        assert "x-agent-id" in error_text(unsaid, family)
    assert (await client.get(f"/run/v1/conversations/{session}")).status == 404
