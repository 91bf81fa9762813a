"""Steering over HTTP, on real servers: a message that is sent while a run works is in its answer."""

import asyncio
from typing import Any

import pytest

from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import fold
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.demo_model import DemoModel
from rejoin_runner.tools.tool_decorator import tool
from tests.support.system.local_system import Answer, LocalSystem


class Work:
    """A tool that works until the test lets it go."""

    def __init__(self) -> None:
        self.begun, self.done = asyncio.Event(), asyncio.Event()

    def agent(self, name: str, **fields: Any) -> Agent:
        """An agent with this tool, as the demo's `sleep`."""

        @tool
        async def sleep(seconds: float) -> str:
            """Work."""
            self.begun.set()
            await self.done.wait()
            return f"I slept for {seconds:g} seconds."

        @tool
        async def weather(city: str) -> str:
            """Tell the weather."""
            return f"It rains in {city}."

        return Agent(name=name, model=DemoModel(), tools=[sleep, weather], **fields)


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
async def base(system: LocalSystem, work: Work) -> str:
    base = await system.gateway()
    await system.runner([work.agent(system.agent)])
    return base


class Steered:
    """A session whose run works, and what a client sends meanwhile."""

    def __init__(self, system: LocalSystem, base: str, work: Work) -> None:
        self.system, self.base, self.work = system, base, work
        self.session = system.fresh("s")
        self.path = f"{base}/api/agents/{system.agent}/{self.session}"

    async def post(self, body: Any, path: str | None = None) -> tuple[int, Any]:
        """The status of a response, and its JSON if it is no stream."""
        async with self.system.http.post(path or self.path, json=body) as response:
            is_stream = response.content_type == "text/event-stream"
            return response.status, None if is_stream else await response.json()

    async def history(self) -> dict[str, Any]:
        return (await self.system.get(self.path)).json  # type: ignore[no-any-return]

    async def run(self, group: asyncio.TaskGroup, query: str = "?ui=7") -> asyncio.Task[Answer]:
        """Begin a run and wait until its tool works. Returns its answer as it comes."""

        async def read() -> Answer:
            body = self.system.chat(self.session, "sleep 1")
            async with self.system.http.post(f"{self.base}/api/chat{query}", json=body) as response:
                return await Answer.of(response)

        reading = group.create_task(read())
        await self.work.begun.wait()
        return reading


@pytest.fixture
def steered(system: LocalSystem, base: str, work: Work) -> Steered:
    return Steered(system, base, work)


def message(text: str, id: str = "m-steer") -> dict[str, Any]:
    return {"id": id, "role": "user", "parts": [{"type": "text", "text": text}]}


@pytest.mark.feature("F106")
async def test_the_stream_and_the_history_have_it_before_the_step_that_reads_it(steered: Steered) -> None:
    async with asyncio.TaskGroup() as group:
        reading = await steered.run(group)
        sent = {**message("weather Oslo"), "metadata": {"page": "/trips"}}
        status, said = await steered.post({"message": sent, "whenBusy": "steer"})
        waiting = await steered.history()
        steered.work.done.set()
    answer = reading.result()
    run = answer.headers["x-workflow-run-id"]
    assert (status, said) == (200, {"success": True, "steering": True, "messageId": "m-steer", "runId": run})
    assert [one["id"] for one in waiting["steeringMessages"]] == ["m-steer"]
    assert len(waiting["messages"]) == 1
    kept = {"rejoin": {"metadata": {"page": "/trips"}}}
    inner = {"type": "text", "text": "weather Oslo", "providerMetadata": kept}
    part = {"type": "steering-message", "id": "m-steer", "parts": [inner]}
    number = answer.chunks.index(part)
    assert [chunk["type"] for chunk in answer.chunks[number - 1 : number + 2]] == [
        "finish-step",
        "steering-message",
        "start-step",
    ]
    history = await steered.history()
    assert "steeringMessages" not in history
    assert [one["role"] for one in history["messages"]] == ["user", "assistant"]
    assert history["messages"][1] == fold(chunks.decode(frame.data) for frame in answer.frames if frame.id)
    assert part in history["messages"][1]["parts"]
    assert answer.text.endswith("It rains in Oslo.")


@pytest.mark.parametrize("query", ["", "?ui=5", "?ui=6"])
async def test_a_client_that_does_not_know_the_event_gets_everything_else(
    steered: Steered, query: str
) -> None:
    async with asyncio.TaskGroup() as group:
        reading = await steered.run(group, query)
        await steered.post({"message": message("weather Oslo"), "whenBusy": "steer"})
        steered.work.done.set()
    answer = reading.result()
    assert answer.complete
    assert "steering-message" not in {chunk["type"] for chunk in answer.chunks}
    assert answer.text.endswith("It rains in Oslo.")


async def test_the_next_turn_knows_what_was_said_in_the_answer(steered: Steered) -> None:
    async with asyncio.TaskGroup() as group:
        await steered.run(group)
        await steered.post({"message": message("weather Oslo"), "whenBusy": "steer"})
        steered.work.done.set()
    answer = await steered.system.post(steered.base, steered.system.chat(steered.session, "hello"))
    assert answer.text.startswith("You said: hello")
    assert len((await steered.history())["messages"]) == 4


@pytest.mark.parametrize("path", ["session", "aisdk", "run", "graph", "parts"])
async def test_every_api_with_when_busy_steers(steered: Steered, path: str) -> None:
    base, session, said = steered.base, steered.session, message("weather Oslo")
    parts = said["parts"]
    run_body = {"messages": [{"role": "user", "parts": parts}], "conversationId": session}
    requests: dict[str, tuple[str, dict[str, Any]]] = {
        "session": (steered.path, {"message": said}),
        "aisdk": (f"{base}/api/chat", {"id": session, "messages": [said]}),
        "run": (f"{base}/run/api/chat", run_body),
        "graph": (f"{base}/api/chat", run_body),
        "parts": (f"{base}/api/chat", {"threadId": session, "parts": parts}),
    }
    url, body = requests[path]
    async with asyncio.TaskGroup() as group:
        await steered.run(group)
        status, answered = await steered.post({**body, "whenBusy": "steer"}, url)
        steered.work.done.set()
    assert (status, answered["steering"]) == (200, True)
    types = [part["type"] for part in (await steered.history())["messages"][-1]["parts"]]
    assert types.count("steering-message") == 1


async def test_the_api_that_polls_does_not_steer(steered: Steered) -> None:
    url = f"{steered.base}/api/agent/chat"
    status, said = await steered.post({"message": "hello", "whenBusy": "steer"}, url)
    assert status == 400
    assert "session API" in said["error"]


async def test_the_same_message_twice_is_in_the_answer_once(steered: Steered) -> None:
    body = {"message": message("weather Oslo"), "whenBusy": "steer"}
    async with asyncio.TaskGroup() as group:
        await steered.run(group)
        first, second = await steered.post(body), await steered.post(body)
        steered.work.done.set()
    assert first == second
    again = await steered.post(body)
    assert again == first
    status, refused = await steered.post({"message": message("weather Rome"), "whenBusy": "steer"})
    assert (status, refused["code"]) == (409, "conflict")
    assert len((await steered.history())["messages"]) == 2


async def test_a_message_that_cannot_be_an_event_is_refused_with_its_place(steered: Steered) -> None:
    parts = [{"type": "text", "text": "x"}, {"type": "data-cart", "data": 1}]
    body = {"message": {"id": "m", "role": "user", "parts": parts}, "whenBusy": "steer"}
    status, refused = await steered.post(body)
    assert (status, refused["errors"][0]["pointer"]) == (400, "/message/parts/1")
    large = {"message": message("x" * 300_000), "whenBusy": "steer"}
    status, refused = await steered.post(large)
    assert (status, "262144" in refused["detail"]) == (400, True)


async def test_a_file_reaches_the_model_and_has_a_url_for_clients(steered: Steered) -> None:
    pixel = (
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ"
        "RU5ErkJggg=="
    )
    said = message("weather Oslo")
    said["parts"].append({"type": "file", "mediaType": "image/png", "url": pixel})
    async with asyncio.TaskGroup() as group:
        reading = await steered.run(group)
        status, _ = await steered.post({"message": said, "whenBusy": "steer"})
        steered.work.done.set()
    assert status == 200
    [event] = [chunk for chunk in reading.result().chunks if chunk["type"] == "steering-message"]
    assert event["parts"][1]["url"].startswith("/api/files/")
    stored = (await steered.history())["messages"][-1]
    [part] = [part for part in stored["parts"] if part["type"] == "steering-message"]
    assert part == event
    async with steered.system.http.get(steered.base + event["parts"][1]["url"]) as response:
        assert response.status == 200


async def test_a_run_that_waits_for_an_approval_is_not_steered(system: LocalSystem) -> None:
    """The message is answered at once, as any other."""
    base, session = await system.gateway(), system.fresh("s")
    await system.runner()
    await system.post(base, system.chat(session, "delete notes.txt"))
    answer = await system.post(base, {**system.chat(session, "hello"), "whenBusy": "steer"})
    assert answer.text.startswith("You said: hello")
