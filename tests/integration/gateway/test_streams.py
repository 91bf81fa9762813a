"""Headers, heartbeats and history of streams, and clients that disconnect, stall or repeat requests."""

import asyncio
import gc
import hashlib
import socket
import tracemalloc
from typing import Any

import aiohttp
import pytest

from rejoin_gateway.auth.authenticator import ANONYMOUS
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol.ids import SessionId
from rejoin_protocol.lifecycle import BUSY
from rejoin_runner.agent.agent import Agent
from rejoin_runner.demo import delete
from rejoin_runner.output import journal
from tests.support.clients.reconnecting_client import DONE, split_frames, without_comments
from tests.support.models.scripted_models import BurstModel, GatedModel, RepeatedDeleteModel
from tests.support.system.local_system import Answer, LocalSystem, read_frames
from tests.support.system.observation import client_bytes, read_log, wait_until

STREAM_HEADERS = {
    "cache-control": "no-cache, no-transform",
    "connection": "keep-alive",
    "x-accel-buffering": "no",
    "x-vercel-ai-ui-message-stream": "v1",
    "x-vercel-ai-data-stream": "v2",
}
SLOW_CLIENT_BYTES_MAX = 1024 * 1024


async def history(system: LocalSystem, base: str, session: str) -> Any:
    return (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json


async def idle(system: LocalSystem, session: str) -> None:
    """Until the session has no run that is busy."""

    async def no_run() -> bool:
        run = await system.apps[0][SERVICE].backend.store.current_run(ANONYMOUS.owner, SessionId(session))
        return run is not None and run.state not in BUSY

    await wait_until(no_run, "the run's end")


def texts(messages: list[dict[str, Any]]) -> list[str]:
    return ["".join(part.get("text", "") for part in message["parts"]) for message in messages]


# ------------------------------------------------------------------------------------ headers and silence


async def test_every_stream_has_the_headers_that_clients_and_proxies_look_for(system: LocalSystem) -> None:
    """On POST and on GET."""
    base = await system.gateway()
    await system.runner()
    session = system.fresh("s")
    sent = await system.post(base, system.chat(session, "count 3"))
    resumed = await system.get(f"{base}/api/chat/{session}/stream?startIndex=0")
    for answer in (sent, resumed):
        assert answer.headers["content-type"] == "text/event-stream"
        assert STREAM_HEADERS.items() <= answer.headers.items()
        assert answer.headers["x-thread-id"] == answer.headers["x-conversation-id"] == session
        assert answer.headers["x-workflow-run-id"].startswith("run_")
    assert sent.headers["x-workflow-run-id"] == resumed.headers["x-workflow-run-id"]
    assert sent.raw == resumed.raw


async def test_silence_is_broken_by_comments_and_by_nothing_else(
    system: LocalSystem,
) -> None:
    gate = asyncio.Semaphore(0)
    base = await system.gateway(stream_heartbeat_s=0.05)
    await system.runner([Agent(name=system.agent, model=GatedModel(gate, 1))])
    raw = b""
    async with system.http.post(f"{base}/api/chat", json=system.chat(system.fresh("s"), "hello")) as response:
        while raw.count(b": keep-alive\n\n") < 3:
            raw += await response.content.readany()
        gate.release()
        raw += await response.read()
    assert [block for block in raw.split(b"\n\n")[:-1] if not block.startswith((b"id: ", b"data: "))] == [
        b": keep-alive"
    ] * raw.count(b": keep-alive")
    assert raw.endswith(b"data: [DONE]\n\n")


# ------------------------------------------------------------------------- clients that leave, stall, share


@pytest.mark.feature("F72")
async def test_a_client_that_leaves_does_not_stop_its_run(system: LocalSystem) -> None:
    base = await system.gateway()
    await system.runner()
    session = system.fresh("s")
    async with system.http.post(
        f"{base}/api/chat", json=system.chat(session, "count 30 every 5 ms")
    ) as response:
        seen = [frame async for frame in read_frames(response, lambda frame: b'"delta":" 2"' in frame.data)]
        response.close()
    assert len(seen) < 10
    await idle(system, session)
    messages = (await history(system, base, session))["messages"]
    assert texts(messages)[-1] == " ".join(str(number) for number in range(1, 31))
    assert not system.apps[0][SERVICE].streams
    assert not system.feeds(0)


async def test_a_request_whose_answer_another_stream_has_follows_no_run(system: LocalSystem) -> None:
    """One that is repeated, is refused, steers or wants no stream: a gateway follows before it stores."""
    base, session = await system.gateway(), system.fresh("s")
    await system.runner()
    first = system.chat(session, "count 200 every 10 ms")
    async with system.http.post(f"{base}/api/chat", json=first) as answer:
        await answer.content.readany()
        assert len(system.feeds(0)) == 1
        changed = {**first, "messages": [{**first["messages"][0], "parts": [{"type": "text", "text": "x"}]}]}
        assert (await system.post(base, changed)).status == 409
        message = {"id": system.fresh("u"), "role": "user", "parts": [{"type": "text", "text": "faster"}]}
        steering = {"message": message, "whenBusy": "steer"}
        async with system.http.post(f"{base}/api/agents/{system.agent}/{session}", json=steering) as accepted:
            assert (await accepted.json())["steering"] is True
        assert len(system.feeds(0)) == 1
    wanted = {"model": system.agent, "input": "count 1", "background": True}
    async with system.http.post(f"{base}/v1/responses", json=wanted) as accepted:
        assert accepted.status == 200
    await wait_until(lambda: not system.feeds(0), "the end of the stream of the client that has left")
    assert (await system.post(base, first)).complete
    assert not system.feeds(0)


@pytest.mark.feature("F89")
async def test_a_client_that_stops_reading_costs_little_and_misses_nothing(
    system: LocalSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 MB pass while it does not read; it stops a second time in the middle of catching up."""
    monkeypatch.setattr(journal, "ANSWER_BYTES_MAX", 32 * 1024 * 1024)
    base = await system.gateway()
    runner = await system.runner([Agent(name=system.agent, model=BurstModel(pieces=96, size=128 * 1024))])
    session = system.fresh("s")
    digest = hashlib.sha256()
    tracemalloc.start()
    try:
        async with system.http.post(f"{base}/api/chat", json=system.chat(session, "hello")) as response:
            narrow(system, response)
            run = response.headers["x-workflow-run-id"]
            await idle(system, session)
            await wait_until(lambda: runner.active_runs == 0, "the runner's rest")
            held = [await stalled(system)]
            digest.update(await some(response, 4 * 1024 * 1024))
            held.append(await stalled(system))
            async for received in response.content.iter_any():
                digest.update(received)
        rest = await traced()
    finally:
        tracemalloc.stop()
    assert max(held) - rest < SLOW_CLIENT_BYTES_MAX
    assert (
        digest.digest() == hashlib.sha256(client_bytes(await read_log(system.nats_url, run)) + DONE).digest()
    )


async def some(response: aiohttp.ClientResponse, size_bytes: int) -> bytes:
    """At least so much of the body. `readexactly` would have the client read as much again ahead."""
    received = b""
    while len(received) < size_bytes:
        received += await response.content.readany()
    return received


def narrow(system: LocalSystem, response: aiohttp.ClientResponse) -> None:
    """Set small socket buffers at both ends: the test is about the gateway's own buffers."""
    (ours,) = system.apps[0][SERVICE].streams
    assert response.connection is not None
    for transport in (ours, response.connection.transport):
        assert transport is not None
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, 64 * 1024)


async def stalled(system: LocalSystem) -> int:
    """Bytes allocated, once the gateway waits for its one client to read on."""

    async def waits() -> bool:
        (transport,) = system.apps[0][SERVICE].streams
        connection: Any = transport.get_protocol()
        return transport.get_write_buffer_size() > 0 and bool(connection._inner._paused)

    await wait_until(waits, "a stalled stream")
    return await traced()


async def traced() -> int:
    """All that is allocated, less what the client of this test has read ahead."""
    gc.collect()
    snapshot = tracemalloc.take_snapshot().filter_traces(
        [tracemalloc.Filter(False, "*/aiohttp/client_proto.py")]
    )
    return sum(trace.size for trace in snapshot.traces)


async def test_clients_of_one_run_share_its_subscription_and_each_gets_everything(
    system: LocalSystem,
) -> None:
    """Ten viewers on one gateway."""
    gate = asyncio.Semaphore(0)
    base = await system.gateway()
    await system.runner([Agent(name=system.agent, model=GatedModel(gate, 5))])
    session = system.fresh("s")
    async with system.http.post(f"{base}/api/chat", json=system.chat(session, "hello")) as response:
        run = response.headers["x-workflow-run-id"]
        async with asyncio.TaskGroup() as group:
            url = f"{base}/api/chat/{session}/stream"
            viewers = [group.create_task(system.get(url)) for _ in range(10)]
            await wait_until(lambda: following(system, {run: 11}), "eleven streams of one run")
            for _ in range(5):
                gate.release()
        sent = await Answer.of(response)
    assert {without_comments(viewer.result().raw) for viewer in viewers} == {without_comments(sent.raw)}
    await wait_until(lambda: following(system, {}), "the end of the subscription")


async def following(system: LocalSystem, feeds: dict[str, int]) -> bool:
    return system.feeds(0) == feeds


# ------------------------------------------------------------------------------------------ large events


async def test_a_delta_that_is_larger_than_a_batch_arrives_whole(system: LocalSystem) -> None:
    """Also by replay, whose pages are smaller than it."""
    base = await system.gateway()
    await system.runner([Agent(name=system.agent, model=BurstModel(pieces=3, size=700 * 1024))])
    session = system.fresh("s")
    answer = await system.post(base, system.chat(session, "hello"))
    assert answer.complete
    assert len(answer.text) == 3 * 700 * 1024
    assert (await system.get(f"{base}/api/chat/{session}/stream?startIndex=0")).raw == answer.raw


async def test_a_delta_that_no_message_of_the_broker_holds_arrives_in_several(system: LocalSystem) -> None:
    """The broker refuses more than 2 MB in one message."""
    base = await system.gateway()
    await system.runner([Agent(name=system.agent, model=BurstModel(pieces=1, size=3 * 1024 * 1024))])
    session = system.fresh("s")
    answer = await system.post(base, system.chat(session, "hello"))
    assert answer.complete
    assert len(answer.text) == 3 * 1024 * 1024
    assert [chunk["type"] for chunk in answer.chunks].count("text-delta") > 1
    assert [chunk["type"] for chunk in answer.chunks][-1] == "finish"
    await idle(system, session)


# --------------------------------------------------------------------------- the same, another, a new turn


async def test_a_message_posted_twice_makes_one_run_and_both_answers_carry_it(system: LocalSystem) -> None:
    """At once, and again after the end; through two gateways."""
    bases = [await system.gateway(), await system.gateway()]
    await system.runner()
    session = system.fresh("s")
    body = system.chat(session, "count 20 every 5 ms")
    async with asyncio.TaskGroup() as group:
        posts = [group.create_task(system.post(bases[number % 2], body)) for number in range(4)]
    answers = [post.result() for post in posts] + [await system.post(bases[0], body)]
    assert len({answer.headers["x-workflow-run-id"] for answer in answers}) == 1
    assert len({without_comments(answer.raw) for answer in answers}) == 1
    assert answers[0].complete
    assert [message["role"] for message in (await history(system, bases[0], session))["messages"]] == [
        "user",
        "assistant",
    ]


async def test_a_message_id_with_other_content_is_a_conflict(system: LocalSystem) -> None:
    base = await system.gateway()
    await system.runner()
    body = system.chat(system.fresh("s"), "count 3")
    await system.post(base, body)
    body["messages"][0]["parts"][0]["text"] = "count 4"
    refused = await system.post(base, body)
    assert (refused.status, refused.json["code"]) == (409, "conflict")
    assert refused.headers["content-type"].startswith("application/problem+json")


async def test_regenerating_replaces_the_last_answer(system: LocalSystem) -> None:
    base = await system.gateway()
    await system.runner()
    session = system.fresh("s")
    body = system.chat(session, "count 3")
    first = await system.post(base, body)
    messages = (await history(system, base, session))["messages"]
    again = await system.post(
        base,
        {
            "id": session,
            "messages": messages[:1],
            "trigger": "regenerate-message",
            "messageId": messages[1]["id"],
        },
    )
    assert again.text == first.text == "1 2 3"
    assert again.headers["x-workflow-run-id"] != first.headers["x-workflow-run-id"]
    replaced = (await history(system, base, session))["messages"]
    assert texts(replaced) == ["count 3", "1 2 3"]
    assert replaced[1]["id"] == again.chunks[0]["messageId"] != messages[1]["id"]


async def test_an_edited_message_replaces_what_followed_it(system: LocalSystem) -> None:
    base = await system.gateway()
    await system.runner()
    session = system.fresh("s")
    first = system.chat(session, "count 3")
    await system.post(base, first)
    await system.post(base, system.chat(session, "count 2"))
    id = first["messages"][0]["id"]
    edited = {"id": id, "role": "user", "parts": [{"type": "text", "text": "count 5"}]}
    answer = await system.post(
        base, {"id": session, "messages": [edited], "trigger": "submit-message", "messageId": id}
    )
    assert answer.text == "1 2 3 4 5"
    assert texts((await history(system, base, session))["messages"]) == ["count 5", "1 2 3 4 5"]


async def test_turns_are_remembered_in_their_order(system: LocalSystem) -> None:
    """Only the id and the new message are sent."""
    gate = asyncio.Semaphore(100)
    base = await system.gateway()
    model = GatedModel(gate, 1, [])
    await system.runner([Agent(name=system.agent, model=model)])
    session = system.fresh("s")
    for text in ("one", "two", "three"):
        assert (await system.post(base, system.chat(session, text))).text == " 0"
    expected = ["one", " 0", "two", " 0", "three"]
    assert [texts(list(request.history)) for request in model.asked] == [
        expected[:1],
        expected[:3],
        expected,
    ]
    assert texts((await history(system, base, session))["messages"]) == [*expected, " 0"]


# -------------------------------------------------------------------------------------------- approvals


@pytest.mark.feature("F50", "F52", "F55")
async def test_an_approved_call_runs_and_the_answer_streams_the_continuation_only(
    system: LocalSystem,
) -> None:
    base = await system.gateway()
    await system.runner()
    session = system.fresh("s")
    asked = await system.post(base, system.chat(session, "delete notes.txt"))
    assert [chunk["type"] for chunk in asked.chunks][-3:] == [
        "tool-approval-request",
        "finish-step",
        "finish",
    ]
    continued = await system.post(base, await system.decision(base, session, approved=True))
    assert continued.chunks[0] == asked.chunks[0]
    assert continued.text == "notes.txt is deleted."
    assert "tool-output-available" in [chunk["type"] for chunk in continued.chunks]
    message = (await history(system, base, session))["messages"][-1]
    assert message["id"] == asked.chunks[0]["messageId"]
    part = next(part for part in message["parts"] if part["type"] == "tool-delete")
    assert (part["state"], part["output"]) == ("output-available", "notes.txt is deleted.")


@pytest.mark.feature("F59")
async def test_a_denied_call_does_not_run(system: LocalSystem) -> None:
    base = await system.gateway()
    await system.runner()
    session = system.fresh("s")
    await system.post(base, system.chat(session, "delete notes.txt"))
    denied = await system.post(base, await system.decision(base, session, approved=False))
    types = [chunk["type"] for chunk in denied.chunks]
    assert "tool-output-denied" in types
    assert "tool-output-available" not in types
    assert denied.text == "You said no, so I left it alone."


@pytest.mark.feature("F86")
async def test_the_same_decision_again_has_one_effect_and_another_one_is_a_conflict(
    system: LocalSystem,
) -> None:
    """At once through two gateways, and again after the end."""
    bases = [await system.gateway(), await system.gateway()]
    await system.runner()
    session = system.fresh("s")
    asked = await system.post(bases[0], system.chat(session, "delete notes.txt"))
    yes = await system.decision(bases[0], session, approved=True)
    no = await system.decision(bases[0], session, approved=False)
    async with asyncio.TaskGroup() as group:
        posts = [group.create_task(system.post(bases[number % 2], yes)) for number in range(4)]
    answers = [post.result() for post in posts] + [await system.post(bases[1], yes)]
    assert {without_comments(answer.raw) for answer in answers} == {without_comments(answers[0].raw)}
    assert answers[0].complete
    assert answers[0].text == "notes.txt is deleted."
    refused = await system.post(bases[0], no)
    assert (refused.status, refused.json["code"]) == (409, "conflict")
    run = asked.headers["x-workflow-run-id"]
    log = client_bytes(await read_log(system.nats_url, run))
    assert log.count(b'"tool-output-available"') == 1


async def test_a_run_is_asked_about_as_often_as_its_model_likes(system: LocalSystem) -> None:
    """Each response ends where the run waits again, the log has them all, and no turn counts as a
    failed attempt.
    """
    times = 12
    base = await system.gateway()
    await system.runner([Agent(name=system.agent, model=RepeatedDeleteModel(times), tools=[delete])])
    session = system.fresh("s")
    body = system.chat(session, "hello")
    answers: list[Answer] = []
    while not answers or answers[-1].chunks[-1]["finishReason"] == "tool-calls":
        answers.append(await system.post(base, body))
        body = await system.decision(base, session, approved=True)
    assert all(answer.complete for answer in answers)
    assert [answer.chunks[-1]["finishReason"] for answer in answers] == ["tool-calls"] * times + ["stop"]
    run = answers[0].headers["x-workflow-run-id"]
    sent = b"".join(b"".join(split_frames(answer.raw)[:-1]) for answer in answers)
    assert sent == client_bytes(await read_log(system.nats_url, run))
