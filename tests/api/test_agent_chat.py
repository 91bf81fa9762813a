"""The agent-chat family: streamed, started and polled, and synchronous answers, and its administrators'
routes.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.model import ModelRequest
from rejoin_runner.tools.tool_decorator import tool
from tests.support.clients.api_families import AGENT_CHAT, ApiClient, Json, Script, event_types
from tests.support.clients.transcripts import Transcript
from tests.support.models.agent_teams import Calls, scripted_agent
from tests.support.models.scripted_models import GatedModel
from tests.support.system.local_system import LocalSystem, read_frames
from tests.support.system.observation import wait_until

AT = "/api/agent/chat"


def ended(client: ApiClient, run: str) -> Callable[[], Awaitable[bool]]:
    async def over() -> bool:
        return (await client.get(f"{AT}/{run}")).json["status"] in {"completed", "failed"}

    return over


@pytest.mark.feature("F58", "F72")
async def test_a_client_that_leaves_behind_the_last_event_interrupts_nothing(client: ApiClient) -> None:
    """It has read the whole response. The question that the response ends with stays open."""
    for _ in range(5):
        session = client.session()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
            body = AGENT_CHAT.body(session, "delete notes.txt", "m1")
            async with http.post(f"{client.base}{AT}/stream", json=body) as response:
                async for frame in read_frames(response, lambda frame: frame.data == b"[DONE]"):
                    assert frame.data
        reply = {"toolCallId": "call_1", "approved": True}
        answer = await client.post(f"{AT}/stream", {"conversationId": session, "approvalResponse": reply})
        assert answer.text == "notes.txt is deleted."


async def test_the_transcript_of_the_agent_chat_family_is_the_golden_one(client: ApiClient) -> None:
    """A whole conversation, byte for byte but for ids and times."""
    talk, session = Transcript(client), client.session()
    await talk.ask("POST", f"{AT}/stream", AGENT_CHAT.body(session, "count 3", "m1"))
    await talk.ask("POST", f"{AT}/stream", AGENT_CHAT.body(session, "delete notes.txt", "m2"))
    reply = {"toolCallId": "call_1", "approved": True}
    await talk.ask("POST", f"{AT}/stream", {"conversationId": session, "approvalResponse": reply})
    started = await talk.ask("POST", AT, {"message": "count 2", "conversationId": session})
    run = started.json["runId"]
    await wait_until(ended(client, run), "the end of the run")
    await talk.ask("GET", f"{AT}/{run}")
    await talk.ask("POST", f"{AT}/sync", {"message": "weather Paris", "conversationId": session})
    await talk.ask("GET", f"{AT}/odd")
    await talk.ask("GET", f"{AT}/run_unknown")
    await talk.ask("POST", f"{AT}/stream", AGENT_CHAT.body("no-uuid", "count 3", "m1"))
    await talk.ask("POST", f"{AT}/stream", {"conversationId": session, "messages": []})
    await talk.ask("POST", f"{AT}/stream", AGENT_CHAT.body(session, "hello", "m9"), x_agent_id="nobody")
    talk.check("agent_chat")


@pytest.mark.feature("F11")
async def test_the_response_names_the_conversation_by_its_uuid(client: ApiClient) -> None:
    """An id that is not a UUID is refused, and nothing is stored."""
    session = client.session()
    answer = await client.say(AGENT_CHAT, session, "count 1")
    assert answer.headers["x-conversation-id"] == session
    assert len(await client.messages(session)) == 2
    made = (await client.say(AGENT_CHAT, None, "count 1")).headers["x-conversation-id"]
    assert uuid.UUID(made).version == 4
    assert len(await client.messages(made)) == 2
    for path, body in (
        ("/stream", AGENT_CHAT.body("mine", "count 1", None)),
        ("", {"message": "count 1", "conversationId": "mine"}),
        ("/sync", {"message": "count 1", "conversationId": "mine"}),
    ):
        refused = await client.post(AT + path, body)
        assert (refused.status, refused.json) == (400, {"error": "conversationId must be a UUID"})
    assert (await client.get(client.at("mine"))).status == 404


@pytest.mark.feature("F11")
@pytest.mark.parametrize(
    "id",
    [
        "urn:uuid:8f14e45f-ceea-467f-9f3b-1c2d3e4f5a6b",
        "{8f14e45f-ceea-467f-9f3b-1c2d3e4f5a6b}",
        "8f14e45fceea467f9f3b1c2d3e4f5a6b",
        "8f14e45f-ceea-967f-9f3b-1c2d3e4f5a6b",
        "8f14e45f-ceea-467f-cf3b-1c2d3e4f5a6b",
        "00000000-0000-0000-0000-000000000000",
        "8f14e45f-ceea-467f-9f3b-1c2d3e4f5a6b\n",
        "",
    ],
)
async def test_only_the_written_form_of_a_uuid_is_a_conversation(client: ApiClient, id: str) -> None:
    refused = await client.say(AGENT_CHAT, id, "count 1")
    assert (refused.status, refused.json) == (400, {"error": "conversationId must be a UUID"})


@pytest.mark.feature("F11")
async def test_all_versions_of_uuids_are_conversations(client: ApiClient) -> None:
    """Versions 1 to 8, in capitals too: these are the same conversation."""
    for version in range(1, 9):
        id = str(uuid.UUID(int=uuid.uuid4().int & ~(15 << 76) | version << 76))
        answer = await client.say(AGENT_CHAT, id.upper(), "count 1")
        assert (answer.status, answer.headers["x-conversation-id"]) == (200, id)


@pytest.mark.feature("F16")
async def test_the_whole_answer_in_one_body(client: ApiClient) -> None:
    session = client.session()
    answer = (await client.post(f"{AT}/sync", {"message": "weather Paris", "conversationId": session})).json
    assert answer["conversationId"] == session
    assert answer["text"] == "It is 3 °C in Paris."
    assert answer["messages"] == (await client.messages(session))[-1:]
    [call] = answer["toolCalls"]
    assert (call["toolName"], call["input"], call["output"]) == ("weather", {"city": "Paris"}, answer["text"])
    assert call["args"] == call["input"]
    waiting = (
        await client.post(f"{AT}/sync", {"message": "delete notes.txt", "conversationId": session})
    ).json
    assert (waiting["finishReason"], waiting["toolCalls"][0]["state"]) == ("tool-calls", "approval-requested")
    failed = (await client.post(f"{AT}/sync", {"message": "fail"})).json
    assert "failed" in failed["error"]
    imported = {"message": "count 1", "history": [{"role": "user", "content": "hello"}]}
    made = (await client.post(f"{AT}/sync", imported)).json["conversationId"]
    assert await client.texts(made) == ["user: hello", "user: count 1", "assistant: 1"]


@pytest.mark.feature("F17")
async def test_a_started_run_is_polled_until_it_ends(client: ApiClient) -> None:
    started = (await client.post(AT, {"message": "count 3"})).json
    assert started["status"] == "queued"
    assert started["runId"].startswith("run_")
    await wait_until(ended(client, started["runId"]), "the end of the run")
    polled = (await client.get(f"{AT}/{started['runId']}")).json
    assert (polled["status"], polled["text"]) == ("completed", "1 2 3")
    assert polled["conversationId"] == started["conversationId"]
    waiting = (await client.post(AT, {"message": "delete notes.txt"})).json["runId"]

    async def asks() -> bool:
        found: Json = (await client.get(f"{AT}/{waiting}")).json
        return bool(
            found["status"] == "suspended"
            and found["messages"][0]["parts"][-1]["state"] == "approval-requested"
        )

    await wait_until(asks, "the question")
    refused = await client.get(f"{AT}/{started['conversationId']}")
    assert (refused.status, "runId must be" in refused.json["error"]) == (400, True)
    unknown = await client.get(f"{AT}/run_unknown")
    assert (unknown.status, list(unknown.json)) == (404, ["error"])


@pytest.mark.feature("F18")
async def test_the_page_that_a_person_looks_at_reaches_the_model(system: LocalSystem) -> None:
    """In all three ways of asking, however long it is."""
    gate = asyncio.Semaphore(4)
    asked: list[ModelRequest] = []
    model = GatedModel(gate, 1, asked)
    await system.runner([Agent(name=system.agent, model=model, instructions="Help.")])
    client = ApiClient(system, await system.gateway())
    page = {"currentPage": "/invoices/42"}
    await client.post(f"{AT}/stream", AGENT_CHAT.body(None, "what is this?", None) | page)
    await client.post(f"{AT}/sync", {"message": "and this?", **page})
    await client.post(f"{AT}/sync", {"message": "hello"})
    assert [one.instructions for one in asked] == ["Help."] * 3
    assert ["/invoices/42" in str(one.history[-1]["parts"]) for one in asked] == [True, True, False]
    address = f"https://example.com/?q={'x' * 200_000}#end"
    long = await client.post(f"{AT}/sync", {"message": "what is this?", "currentPage": address})
    assert long.status == 200
    assert address in asked[-1].history[-1]["parts"][-1]["text"]


@pytest.mark.feature("F58")
async def test_only_yes_or_no_is_taken_from_the_client(client: ApiClient) -> None:
    """Its copy of the arguments is not looked at; said again it is the same answer; the opposite is not."""
    session = client.session()
    await client.say(AGENT_CHAT, session, "delete notes.txt")
    part = await client.question(session)
    forged = {"role": "assistant", "parts": [part | {"input": {"file": "everything"}}]}
    reply = {"toolCallId": "call_1", "approved": True, "input": {"file": "everything"}}
    body = {"conversationId": session, "messages": [forged], "approvalResponse": reply}
    answer = await client.post(f"{AT}/stream", body)
    assert answer.text == "notes.txt is deleted."
    assert (await client.post(f"{AT}/stream", body)).raw == answer.raw
    contrary = body | {"approvalResponse": reply | {"approved": False}}
    assert (await client.post(f"{AT}/stream", contrary)).status == 409
    unknown = body | {"approvalResponse": reply | {"toolCallId": "call_9"}}
    assert (await client.post(f"{AT}/stream", unknown)).status == 404


@pytest.fixture
async def gated(system: LocalSystem) -> asyncio.Semaphore:
    gate = asyncio.Semaphore(2)
    await system.runner([Agent(name=system.agent, model=GatedModel(gate, 9, []), text_interval_s=0)])
    return gate


async def state(client: ApiClient, run: str) -> Any:
    return (await client.get(f"/run/api/executions/{run}")).json["state"]


async def leave(system: LocalSystem, client: ApiClient) -> str:
    """Begin to read, and go."""
    body = AGENT_CHAT.body(None, "hello", None)
    async with system.http.post(f"{client.base}{AT}/stream", json=body) as response:
        async for _ in read_frames(response, lambda frame: b"text-delta" in frame.data):
            pass
        response.close()
        return response.headers["x-workflow-run-id"]


async def test_a_run_whose_client_has_left_is_stopped(system: LocalSystem, gated: asyncio.Semaphore) -> None:
    """Only in this family, and unless the setting turns it off."""
    assert not gated.locked()
    client = ApiClient(system, await system.gateway())
    run = await leave(system, client)

    async def stopped() -> bool:
        return bool(await state(client, run) == "cancelled")

    await wait_until(stopped, "the end of the run")


@pytest.mark.feature("F58", "F95")
async def test_a_client_that_ends_its_stream_at_a_question_has_not_left(system: LocalSystem) -> None:
    """As `ai` 5, which does not know the event: a page that is loaded again finds the question."""
    gate = asyncio.Semaphore(0)

    @tool(needs_approval=True)
    async def pay() -> str:
        """Pay."""
        return "paid"

    @tool
    async def look() -> str:
        """Look."""
        await gate.acquire()
        return "seen"

    lines: Script = {"go": [[Calls("pay"), Calls("look")], ["Done."]]}
    await system.runner([scripted_agent(system.agent, lines, tools=[pay, look])])
    client = ApiClient(system, await system.gateway())
    session = client.session()
    body = AGENT_CHAT.body(session, "go", None)
    async with system.http.post(f"{client.base}{AT}/stream", json=body) as response:
        async for _ in read_frames(response, lambda frame: b"tool-approval-request" in frame.data):
            pass
        response.close()
        run = response.headers["x-workflow-run-id"]

    async def is_gone() -> bool:
        return not system.apps[0][SERVICE].streams

    await wait_until(is_gone, "the end of the response")
    assert await state(client, run) == "running"
    gate.release()

    async def waits() -> bool:
        return bool(await state(client, run) == "suspended")

    await wait_until(waits, "the question")
    reply = {"toolCallId": (await client.question(session))["toolCallId"], "approved": True}
    answer = await client.post(f"{AT}/stream", {"conversationId": session, "approvalResponse": reply})
    assert answer.text == "Done."


async def test_a_run_goes_on_without_its_client_where_that_is_set(
    system: LocalSystem, gated: asyncio.Semaphore
) -> None:
    client = ApiClient(system, await system.gateway(agent_chat_cancel_on_disconnect=False))
    run = await leave(system, client)
    for _ in range(7):
        gated.release()

    async def completed() -> bool:
        return bool(await state(client, run) == "completed")

    await wait_until(completed, "the end of the run")


async def test_a_run_ends_when_its_time_is_over(system: LocalSystem, gated: asyncio.Semaphore) -> None:
    """With `abort` and `finish`, as any run that is stopped."""
    assert not gated.locked()
    client = ApiClient(system, await system.gateway(agent_chat_timeout_s=0.3))
    answer = await client.say(AGENT_CHAT, None, "hello")
    assert answer.complete
    assert [chunk["type"] for chunk in answer.chunks][-3:] == ["abort", "finish-step", "finish"]
    assert await state(client, answer.headers["x-workflow-run-id"]) == "cancelled"


async def test_an_approved_run_ends_too_when_its_time_is_over(system: LocalSystem) -> None:
    """The continuation is under the same limit as the first answer."""

    @tool(needs_approval=True)
    async def wait() -> str:
        """Wait for ever."""
        await asyncio.Event().wait()
        return "never"

    await system.runner([scripted_agent(system.agent, {"go": [[Calls("wait")], ["Done."]]}, tools=[wait])])
    client = ApiClient(system, await system.gateway(agent_chat_timeout_s=2.0))
    session = client.session()
    await client.say(AGENT_CHAT, session, "go")
    call = (await client.question(session))["toolCallId"]
    body = {"conversationId": session, "approvalResponse": {"toolCallId": call, "approved": True}}
    answer = await client.post(f"{AT}/stream", body)
    assert (answer.complete, "abort" in event_types(answer)) == (True, True)
