"""After a stop the next request of the session is served at once, whatever the stopped run does."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from rejoin_protocol.events import chunks
from rejoin_runner.agent.agent import Agent
from rejoin_runner.agent.agent_decorator import agent
from rejoin_runner.agent.custom_loop import LoopOutput, RunInput
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool
from tests.support.clients.api_families import SESSION, ApiClient, Json, event_types
from tests.support.system.local_system import Answer, LocalSystem, read_frames
from tests.support.system.observation import read_log, wait_until

AT_ONCE_S = 2.5
"""A stopped tool has half a second; the rest is for a slow machine."""
LONG = "count 1000 every 20 ms"


def user(id: str, text: str) -> Json:
    return {"id": id, "role": "user", "parts": [{"type": "text", "text": text}]}


async def begin_and_leave(client: ApiClient, body: Json, path: str = "/api/chat") -> tuple[str, Json]:
    """Send, read up to the first text, and leave. Returns the run, and the page's copy of its answer."""
    url = client.base + path
    answer: Json = {"role": "assistant", "parts": [{"type": "text", "text": "1"}]}
    async with client.system.http.post(url, json=body) as response:
        async for frame in read_frames(response, lambda frame: b"text-delta" in frame.data):
            if b'"start"' in frame.data:
                answer["id"] = chunks.decode(frame.data).message_id  # type: ignore[union-attr]
        return response.headers["x-workflow-run-id"], answer


async def served(client: ApiClient, body: Json, path: str = "/api/chat") -> Answer:
    """The answer, whose first event has to come at once."""
    began_s = time.monotonic()
    async with client.system.http.post(client.base + path, json=body) as response:
        assert response.status == 200, await response.text()
        frames = read_frames(response)
        first = await anext(frames)
        took_s = time.monotonic() - began_s
        assert took_s < AT_ONCE_S
        rest = [frame async for frame in frames]
        return Answer(response.status, dict(response.headers), b"", [first, *rest])


async def state_of(client: ApiClient, run: str) -> str:
    found: str = (await client.get(f"/run/api/executions/{run}")).json["state"]
    return found


@pytest.mark.feature("F75", "F97")
@pytest.mark.parametrize("follow_up", ["send", "regenerate", "edit"])
async def test_stock_use_chat_stops_and_goes_on(system: LocalSystem, follow_up: str) -> None:
    """`stop()` closes the connection and nothing else. What the page sends next is answered by another
    gateway, without a 409 and without waiting for the run that it has left.
    """
    await system.runner()
    client, other = [ApiClient(system, await system.gateway()) for _ in range(2)]
    session = client.session()
    first = user("m1", LONG)
    run, partial = await begin_and_leave(client, {"id": session, "messages": [first]})
    bodies: dict[str, Json] = {
        "send": {"messages": [first, partial, user("m2", "count 2")]},
        "regenerate": {"messages": [first], "trigger": "regenerate-message", "messageId": partial["id"]},
        "edit": {"messages": [user("m1", "count 2")], "messageId": "m1"},
    }
    body = {"id": session, "trigger": "submit-message"} | bodies[follow_up]
    if follow_up == "regenerate":
        again, _ = await begin_and_leave(other, body)
        assert again != run
        await other.post(f"/api/chat/{session}/stop")
    else:
        assert (await served(other, body)).text == "1 2"
    assert await state_of(client, run) == "cancelled"
    expected = {
        "send": ["user", "assistant"] * 2,
        "regenerate": ["user", "assistant"],
        "edit": ["user", "assistant"],
    }

    async def settled() -> bool:
        return [one["role"] for one in await client.messages(session)] == expected[follow_up]

    await wait_until(settled, "the history")


@pytest.mark.feature("F75", "F97")
async def test_the_run_api_knows_by_the_ids_too(system: LocalSystem) -> None:
    await system.runner()
    client = ApiClient(system, await system.gateway())
    session = client.session()
    first = user("m1", LONG)
    body = {"conversationId": session, "messages": [first]}
    run, partial = await begin_and_leave(client, body, "/run/api/chat")
    body["messages"] = [first, partial, user("m2", "count 2")]
    assert (await served(client, body, "/run/api/chat")).text == "1 2"
    assert await state_of(client, run) == "cancelled"


@pytest.mark.feature("F72", "F97")
async def test_who_has_not_seen_the_answer_waits_for_it(system: LocalSystem) -> None:
    """Another tab, a reloaded page, and a client that states its own policy."""
    await system.runner()
    client = ApiClient(system, await system.gateway())
    for extra, earlier in (
        ({}, []),
        ({}, [user("m1", "count 20 every 20 ms")]),
        ({"whenBusy": "enqueue"}, None),
    ):
        session = client.session()
        first = user("m1", "count 20 every 20 ms")
        run, partial = await begin_and_leave(client, {"id": session, "messages": [first]})
        known = [first, partial] if earlier is None else earlier
        body = {"id": session, "messages": [*known, user("m2", "count 2")], **extra}
        assert (await client.post("/api/chat", body)).text == "1 2"
        assert await state_of(client, run) == "completed"


@pytest.mark.feature("F12", "F97")
async def test_a_message_that_is_sent_again_does_not_stop_its_own_run(system: LocalSystem) -> None:
    await system.runner()
    client = ApiClient(system, await system.gateway())
    session = client.session()
    run, partial = await begin_and_leave(client, {"id": session, "messages": [user("m1", LONG)]})
    messages = [user("m1", LONG), partial, user("m2", "count 10 every 20 ms")]
    for extra in ({}, {}, {"interruptIfStreaming": {"lastPart": {"type": "text", "text": "1"}}}):
        second, _ = await begin_and_leave(client, {"id": session, "messages": messages, **extra})
    edited = [user("m2", "count 5 every 20 ms")]
    body = {"id": session, "messages": edited, "messageId": "m2"}
    third, _ = await begin_and_leave(client, body)
    assert (await begin_and_leave(client, body))[0] == third
    assert (await client.post("/api/chat", body)).text == "1 2 3 4 5"
    assert len({run, second, third}) == 3
    assert await state_of(client, third) == "completed"


@pytest.mark.feature("F97")
async def test_regenerate_and_edit_right_after_an_acknowledged_stop(system: LocalSystem) -> None:
    """Also if the client does not want to interrupt: an interrupted run is no obstacle."""
    await system.runner()
    client, other = [ApiClient(system, await system.gateway()) for _ in range(2)]
    for number in range(6):
        session = client.session()
        _, partial = await begin_and_leave(client, {"id": session, "messages": [user("m1", LONG)]})
        assert (await other.post(f"/api/chat/{session}/stop")).json["interrupted"]
        body: Json = {"id": session, "messages": [user("m1", "count 2")], "messageId": "m1"}
        if number % 2:
            body = {"id": session, "messages": [user("m1", LONG), partial, user("m2", "count 2")]}
        body["whenBusy"] = "reject" if number % 3 else "enqueue"
        assert (await served(client, body)).text == "1 2"
        renamed = await client.ask("PATCH", client.at(session), {"lastMessageId": "m1"})
        assert renamed.status == 200


class Stubborn:
    """Swallows its cancellation for a while, then talks on."""

    def __init__(self, model_name: str) -> None:
        self.name = model_name
        self.begun = asyncio.Event()
        self.returned = asyncio.Event()

    async def wait(self) -> None:
        self.begun.set()
        end_s = time.monotonic() + 4
        while time.monotonic() < end_s:
            try:
                await asyncio.sleep(end_s - time.monotonic())
            except asyncio.CancelledError:
                continue
        self.returned.set()


class CallsOnce:
    """A model that calls the tool `hang` if the message wants it, and else emits one word."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model`."""
        asked = request.history[-1]["parts"][0]["text"]
        if asked == "hang" and not request.step:
            yield chunks.ToolInputAvailable(tool_call_id="c", tool_name="hang", input={})
            yield Done("tool-calls")
            return
        yield chunks.TextStart(id="t")
        yield chunks.TextDelta(id="t", delta="Hello.")
        yield chunks.TextEnd(id="t")
        yield Done("stop")


def with_stubborn_tool(name: str, stubborn: Stubborn) -> Agent:
    @tool
    async def hang(context: ToolContext[None]) -> str:
        """Hangs."""
        await stubborn.wait()
        await context.emit_summary("too late")
        return "too late"

    return Agent(name=name, model=CallsOnce(), tools=[hang])


def with_stubborn_loop(name: str, stubborn: Stubborn) -> Agent:
    @agent(name=name, text_interval_s=0)
    async def loop(run: RunInput[None]) -> AsyncGenerator[LoopOutput]:
        if run.messages[-1]["parts"][0]["text"] == "hang":
            yield "So far."
            await stubborn.wait()
            yield " too late"
        yield "Hello."

    return loop


@pytest.mark.feature("F74", "F97")
@pytest.mark.parametrize("build", [with_stubborn_tool, with_stubborn_loop])
async def test_work_that_swallows_its_cancellation_is_abandoned(system: LocalSystem, build: Any) -> None:
    """The run ends after a grace, the next message is answered, and what comes too late is nowhere."""
    stubborn = Stubborn(system.agent)
    await system.runner([build(system.agent, stubborn)])
    client = ApiClient(system, await system.gateway())
    session = client.session()
    async with asyncio.TaskGroup() as group:
        hanging = group.create_task(client.say(SESSION, session, "hang"))
        await stubborn.begun.wait()
        assert (await client.post(f"/api/chat/{session}/stop")).json["interrupted"]
        answer = await served(client, {"message": "hi"}, client.at(session))
    assert answer.text == "Hello."
    assert not stubborn.returned.is_set()
    stopped = hanging.result()
    assert "abort" in event_types(stopped)
    assert stopped.complete
    run = stopped.headers["x-workflow-run-id"]
    before = await read_log(system.nats_url, run)
    await stubborn.returned.wait()
    await asyncio.sleep(0.2)
    assert await read_log(system.nats_url, run) == before
    assert "too late" not in str(await client.messages(session))


@pytest.mark.feature("F97")
@pytest.mark.parametrize("named", [True, False])
async def test_a_stop_that_overtakes_its_message_holds(system: LocalSystem, named: bool) -> None:
    await system.runner()
    client, other = [ApiClient(system, await system.gateway()) for _ in range(2)]
    session = client.session()
    said = await other.post(f"/api/chat/{session}/stop", {"messageId": "m1"} if named else None)
    assert said.status == (200 if named else 404)
    answer = await client.say(SESSION, session, LONG, id="m1")
    assert "abort" in event_types(answer)
    assert (answer.text, answer.complete) == ("", True)
    assert (await client.say(SESSION, session, "count 2", id="m2")).text == "1 2"


@pytest.mark.feature("F75")
async def test_what_the_user_had_seen_last_is_kept(system: LocalSystem) -> None:
    """`{lastPart}` in the interrupt and in the message that interrupts: the rest of the answer is cut."""
    await system.runner()
    client = ApiClient(system, await system.gateway())
    for by_message in (True, False):
        session = client.session()
        begun = {"message": "count 1000 every 10 ms"}
        seen = {"lastPart": {"type": "text", "text": "1 2", "state": "streaming"}}
        async with system.http.post(client.base + client.at(session), json=begun) as response:
            async for _ in read_frames(response, lambda frame: b'" 8"' in frame.data):
                pass
            if not by_message:
                assert (await client.post(client.at(session, "/interrupt"), seen)).json["interrupted"]
            options = {"interruptIfStreaming": seen} if by_message else {}
            answer = await client.post(client.at(session), {"message": "count 2", **options})
            rest = [frame.data async for frame in read_frames(response)]
        assert rest[-1] == b"[DONE]"
        assert answer.text == "1 2"
        texts = await client.texts(session)
        assert texts[1] == "assistant: 1 2"
        assert len(texts) == 4
