"""Tools that the client runs: the run waits for an output as for an approval."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rejoin import Agent, client_tool, testing
from rejoin.dev.config_file import SharedSettings, write_config
from rejoin.testing import Answer, Chat, ScriptedModel, call, raw_call
from rejoin_protocol.errors import Conflict, Invalid, NotFound
from tests.integration.gateway.test_request_context import KEYS
from tests.support.agents.travel_tools import book, weather
from tests.support.system.local_system import LocalSystem

pytestmark = pytest.mark.feature("F104")


@dataclass
class Question:
    """What the page is asked."""

    accuracy: int


@dataclass
class Place:
    """Where the page is."""

    city: str


locate = client_tool("locate", "Find out where the user is.", input=Question, output=Place)
confirm = client_tool("confirm", "Ask the user to confirm.")


agent = Agent(
    name="travel",
    model="openai:gpt-5-mini",
    tools=[locate, confirm, weather, book],
    approval_timeout_s=3600,
)
type OpenChat = Callable[[ScriptedModel], AbstractAsyncContextManager[Chat]]
LOCATE = call("locate", accuracy=5)


@pytest.fixture(params=["memory", "servers"])
def open_chat(request: pytest.FixtureRequest, system: LocalSystem, tmp_path: Path) -> OpenChat:
    if request.param == "memory":
        return lambda model: testing.chat(agent, model=model)
    shared = SharedSettings(
        nats_url=system.nats_url, database_url=system.database_url, context_encryption_keys=KEYS
    )
    write_config(tmp_path, shared)
    return lambda model: testing.chat(agent, model=model, config=tmp_path / "rejoin.toml")


async def test_the_output_of_the_client_reaches_the_model(open_chat: OpenChat) -> None:
    model = ScriptedModel(LOCATE, lambda request: f"You are in {_output(request, 'locate')['city']}.")
    async with open_chat(model) as chat:
        asked = await chat.send("Where am I?")
        [waiting] = asked.waiting_for_output
        assert (waiting.name, waiting.input, asked.finish_reason) == ("locate", {"accuracy": 5}, "tool-calls")
        assert (await chat.history())[-1]["parts"][-1]["state"] == "input-available"
        answer = await chat.tool_output(Place("Oslo"))
        assert answer.text == "You are in Oslo."
        assert answer.tool("locate").output == {"city": "Oslo"}
        assert (await chat.history())[-1]["parts"] == answer.message["parts"]


async def test_an_error_of_the_client_reaches_the_model(open_chat: OpenChat) -> None:
    async with open_chat(ScriptedModel(LOCATE, "I cannot know.")) as chat:
        await chat.send("Where am I?")
        answer = await chat.tool_output(error="the user refused")
        assert (answer.tool("locate").error, answer.text) == ("the user refused", "I cannot know.")


ORDERS = (("output", "approve"), ("approve", "output"))


@pytest.mark.parametrize("order", ORDERS)
async def test_a_server_tool_a_client_tool_and_an_approval_of_one_step_end_in_any_order(
    open_chat: OpenChat, order: tuple[str, str]
) -> None:
    calls = [call("weather", city="Oslo"), LOCATE, call("book", city="Rome"), call("confirm")]
    async with open_chat(ScriptedModel(calls, "Done.")) as chat:
        asked = await chat.send("Plan")
        assert asked.tool("weather").output == "It rains in Oslo."
        assert {one.name for one in asked.waiting_for_output} == {"locate", "confirm"}
        assert [one.name for one in asked.waiting] == ["book"]
        assert (await chat.tool_output({"ok": True}, tool="confirm")).events == []
        steps: dict[str, Callable[[], Awaitable[Answer]]] = {
            "output": partial(chat.tool_output, {"city": "Rome"}, tool="locate"),
            "approve": chat.approve,
        }
        assert (await steps[order[0]]()).events == []
        answer = await steps[order[1]]()
        assert answer.text == "Done."
        assert {one.name: one.state for one in answer.tools} == dict.fromkeys(
            ("weather", "locate", "book", "confirm"), "output-available"
        )


async def test_an_output_holds_once_and_another_one_is_a_conflict(open_chat: OpenChat) -> None:
    async with open_chat(ScriptedModel(LOCATE, "Oslo.")) as chat:
        asked = await chat.send("Where am I?")
        id = asked.tool("locate").id
        await chat.tool_output({"city": "Oslo"})
        again = await chat.session.tool_output(id, {"city": "Oslo"})
        assert again is not None
        for other in ({"output": {"city": "Rome"}}, {"error": "no"}):
            with pytest.raises(Conflict):
                await chat.session.tool_output(id, **other)


async def test_the_error_for_an_output_names_the_field(system: LocalSystem) -> None:
    base, session = await system.gateway(), system.fresh("s")
    await system.runner([msgspec.structs.replace(agent, name=system.agent, model=ScriptedModel(LOCATE))])
    asked = await system.post(base, system.chat(session, "Where am I?"))
    run = f"{base}/run/api/executions/{asked.headers['x-workflow-run-id']}"
    [waiting] = (await system.get(run)).json["pendingToolOutputs"]
    call_id, wrong = waiting["toolCallId"], {"output": {"city": 5}}
    by_session = {"type": "tool-output", "toolCallId": call_id, **wrong}
    for url, body in (
        (f"{run}/tool-outputs/{call_id}", wrong),
        (f"{base}/api/agents/{system.agent}/{session}", by_session),
    ):
        async with system.http.post(url, json=body) as response:
            assert response.status == HTTPStatus.BAD_REQUEST
            assert (await response.json())["errors"][0]["pointer"] == "/output/city"


async def test_an_output_that_does_not_fit_is_refused_and_the_call_stays_open(open_chat: OpenChat) -> None:
    async with open_chat(ScriptedModel([LOCATE, call("book", city="Rome")], "Done.")) as chat:
        asked = await chat.send("Where am I?")
        id = asked.tool("locate").id
        for wrong in ({"town": "Oslo"}, "Oslo", {"city": 5}):
            with pytest.raises(Invalid, match="the output of locate does not fit"):
                await chat.session.tool_output(id, wrong)
        with pytest.raises(Invalid, match="at most 262144 bytes"):
            await chat.session.tool_output(id, {"city": "x" * 300_000})
        for ending in ({"city": "Oslo", "__proto__": {}}, {"constructor": {"prototype": 1}}):
            with pytest.raises(
                Invalid, match="names a JavaScript prototype"
            ):  # it would end a reader's stream
                await chat.session.tool_output(id, ending)
        with pytest.raises(NotFound):
            await chat.session.tool_output(asked.tool("book").id, "Rome")
        with pytest.raises(NotFound):
            await chat.session.tool_output("call_of_nobody", "Rome")
        [waiting] = await chat.session.session.pending_tool_outputs()
        with pytest.raises(Invalid, match="an output for"):
            await chat.session.approve(waiting.request.id, approved=True)
        await chat.tool_output({"city": "Oslo"})
        assert (await chat.approve()).text == "Done."


async def test_arguments_that_do_not_fit_are_the_models_error_and_not_the_clients_call() -> None:
    model = ScriptedModel(
        call("locate", accuracy="high"), raw_call("locate", '{"accuracy": '), LOCATE, "Oslo."
    )
    async with testing.chat(agent, model=model) as chat:
        asked = await chat.send("Where am I?")
        assert [one.state for one in asked.tools] == ["output-error", "output-error", "input-available"]
        assert (await chat.tool_output({"city": "Oslo"})).text == "Oslo."


async def test_an_output_that_nobody_gives_expires() -> None:
    async with testing.chat(agent, model=ScriptedModel(LOCATE, "Never mind.")) as chat:
        await chat.send("Where am I?")
        answer = await chat.advance(timedelta(hours=2))
        assert answer.tool("locate").error == "The client did not answer in time."
        assert answer.text == "Never mind."


async def test_an_interrupt_ends_a_run_that_waits_for_an_output(open_chat: OpenChat) -> None:
    async with open_chat(ScriptedModel(LOCATE, "Hello.")) as chat:
        asked = await chat.send("Where am I?")
        assert await chat.interrupt()
        answer = await chat.send("Hello")
        assert answer.text == "Hello."
        with pytest.raises(Conflict):
            await chat.session.tool_output(asked.tool("locate").id, {"city": "Oslo"})


EVENTS = ("start", "tool-input-available", "finish", "tool-output-available", "text-end")


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("event", EVENTS)
async def test_the_call_survives_a_crash_at_every_event(event: str, stored: bool) -> None:
    async with testing.chat(agent, model=ScriptedModel([LOCATE, call("confirm")], "Oslo.")) as chat:
        chat.crash_at(event, stored=stored)
        asked = await chat.send("Where am I?")
        assert {one.name for one in asked.waiting_for_output} == {"locate", "confirm"}
        await chat.tool_output({"city": "Oslo"}, tool="locate")
        answer = await chat.tool_output(True, tool="confirm")
        assert answer.text == "Oslo."
        assert [one.output for one in answer.tools] == [{"city": "Oslo"}, True]


def _output(request: Any, name: str) -> Any:
    [part] = [part for part in request.answer["parts"] if part["type"] == f"tool-{name}"]
    return part["output"]
