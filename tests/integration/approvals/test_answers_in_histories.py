"""An answer that is given while its run waits for another one: every history shows it, and every stream whose
client can.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import fold
from rejoin_protocol.log import sse
from rejoin_runner.tools.client_tool import client_tool
from rejoin_runner.tools.tool_decorator import tool
from tests.api.test_rows_approvals import waiting_run
from tests.support.clients.api_families import AISDK, ApiClient, Json, Script, with_decision
from tests.support.models.agent_teams import Calls, scripted_agent
from tests.support.system.local_system import LocalSystem, read_frames

type Ran = list[tuple[str, int]]
SHOWN, EDITED = {"cents": 900}, {"cents": 800}


@pytest.fixture
async def shop(system: LocalSystem) -> tuple[ApiClient, Ran]:
    """A client whose agent asks two questions and calls a tool of the client in one step, and what ran."""
    ran: Ran = []

    @tool(needs_approval=True, approval_edits=True)
    async def pay(cents: int) -> str:
        """Pay."""
        ran.append(("pay", cents))
        return "paid"

    @tool(needs_approval=True)
    async def ship(cents: int) -> str:
        """Ship."""
        ran.append(("ship", cents))
        return "shipped"

    locate = client_tool("locate", "Find the user.", output=str)
    calls = [Calls("pay", SHOWN), Calls("ship", SHOWN), Calls("locate")]
    lines: Script = {"go": [calls, ["Done."]]}
    await system.runner([scripted_agent(system.agent, lines, tools=[pay, ship, locate])])
    return ApiClient(system, await system.gateway()), ran


async def by_session(client: ApiClient, session: str) -> list[Json]:
    return await client.messages(session)


async def by_conversation(client: ApiClient, session: str) -> list[Json]:
    found: list[Json] = (await client.get(f"/run/v1/conversations/{session}")).json["data"]["messages"]
    return found


async def by_thread(client: ApiClient, session: str) -> list[Json]:
    found: list[Json] = (await client.get(f"/api/threads/{session}")).json["messages"]
    return found


async def by_poll(client: ApiClient, session: str) -> list[Json]:
    run = await waiting_run(client, session)
    found: list[Json] = (await client.get(f"/api/agent/chat/{run}")).json["messages"]
    return found


type Read = Callable[[ApiClient, str], Awaitable[list[Json]]]
HISTORIES: dict[str, Read] = {
    "session": by_session,
    "run": by_conversation,
    "parts": by_thread,
    "agent chat": by_poll,
}


def calls_of(messages: list[Json]) -> dict[str, Json]:
    return {part["type"]: part for part in messages[-1]["parts"] if "toolCallId" in part}


async def ask(client: ApiClient) -> tuple[str, dict[str, Json]]:
    """A session that waits for three answers, and its calls."""
    session = client.session()
    await client.say(AISDK, session, "go")
    return session, calls_of(await client.messages(session))


async def answer(client: ApiClient, session: str, body: Any) -> None:
    said = await client.post(client.at(session), body)
    assert (said.status, said.json) == (200, {"success": True})


def decision(part: Json, *, approved: bool, **more: Any) -> Json:
    approval = {"approvalId": part["approval"]["id"], "approved": approved, **more}
    return {"type": "approval", "approval": approval}


@pytest.mark.feature("F61")
@pytest.mark.parametrize("history", HISTORIES)
async def test_each_history_shows_what_was_answered_and_what_is_still_asked(
    shop: tuple[ApiClient, Ran], history: str
) -> None:
    """As the API's own client reads it: that of the parts API sends an `approval-responded` call for ever."""
    client, ran = shop
    session, asked = await ask(client)
    await answer(client, session, decision(asked["tool-pay"], approved=True, reason="the tip", input=EDITED))
    shown = calls_of(await HISTORIES[history](client, session))
    paid, approval = shown["tool-pay"], asked["tool-pay"]["approval"]
    is_parts = history == "parts"
    assert paid["state"] == ("input-available" if is_parts else "approval-responded")
    assert paid["approval"] == approval | {"approved": True, "reason": "the tip", "input": EDITED}
    assert paid["input"] == EDITED
    assert paid["callProviderMetadata"]["rejoin"]["edit"]["shownInput"] == SHOWN
    assert {name: shown[name] for name in ("tool-ship", "tool-locate")} == {
        name: asked[name] for name in ("tool-ship", "tool-locate")
    }
    await answer(client, session, decision(asked["tool-ship"], approved=False, reason="too far"))
    shipped = calls_of(await HISTORIES[history](client, session))["tool-ship"]
    assert shipped["state"] == ("output-denied" if is_parts else "approval-responded")
    assert (shipped["approval"]["approved"], shipped["approval"]["reason"]) == (False, "too far")
    assert ran == []


@pytest.mark.feature("F61", "F104")
@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"state": "output-available", "output": "Oslo"}, {"output": "Oslo"}),
        ({"state": "output-error", "errorText": "no signal"}, {"errorText": "no signal"}),
    ],
    ids=["output", "error"],
)
async def test_each_history_shows_the_output_of_a_client_s_tool(
    shop: tuple[ApiClient, Ran], history: str, given: Json, shown: Json
) -> None:
    client, _ = shop
    session, asked = await ask(client)
    messages = await client.messages(session)
    messages[-1]["parts"] = [asked["tool-locate"] | given]
    said = await client.post("/api/chat", {"id": session, "messages": messages})
    assert said.json == {"success": True}
    part = calls_of(await HISTORIES[history](client, session))["tool-locate"]
    assert part == asked["tool-locate"] | {"state": given["state"]} | shown


@pytest.mark.feature("F61", "F87")
async def test_a_page_that_is_loaded_between_two_answers_repeats_the_first_and_gives_the_second(
    shop: tuple[ApiClient, Ran],
) -> None:
    """What `useChat` posts then: the message as it was loaded, with its own answer."""
    client, ran = shop
    session, asked = await ask(client)
    await answer(client, session, decision(asked["tool-pay"], approved=True, input=EDITED))
    messages = await client.messages(session)
    shown = calls_of(messages)
    located = shown["tool-locate"] | {"state": "output-available", "output": "Oslo"}
    parts = [shown["tool-pay"], with_decision(shown["tool-ship"], approved=True), located]
    messages[-1]["parts"] = parts
    said = await client.post("/api/chat", {"id": session, "messages": messages})
    assert (said.complete, said.text) == (True, "Done.")
    assert sorted(ran) == [("pay", 800), ("ship", 900)]
    states = {name: part["state"] for name, part in calls_of(await client.messages(session)).items()}
    assert set(states.values()) == {"output-available"}


@pytest.mark.feature("F61")
async def test_each_of_two_waiting_runs_shows_its_own_answers(shop: tuple[ApiClient, Ran]) -> None:
    """Ids of calls are unique in a run only."""
    client, _ = shop
    session, first = await ask(client)
    await client.say(AISDK, session, "go")
    second = calls_of(await client.messages(session))
    assert second["tool-locate"]["toolCallId"] == first["tool-locate"]["toolCallId"]
    await answer(client, session, decision(first["tool-pay"], approved=False))
    messages = await client.messages(session)
    assert calls_of(messages) == second
    assert calls_of(messages[:2])["tool-pay"]["state"] == "approval-responded"


OUTPUT = {"state": "output-available", "output": "Oslo"}


async def locate(client: ApiClient, session: str, part: Json) -> None:
    message = {"id": "any", "role": "assistant", "parts": [part | OUTPUT]}
    said = await client.post("/api/chat", {"id": session, "messages": [message]})
    assert said.json == {"success": True}


@pytest.mark.feature("F61", "F104")
@pytest.mark.parametrize(
    ("ui", "shown"),
    [
        ("", ["tool-output-available"]),
        ("&ui=5", ["tool-output-available"]),
        ("&ui=6", ["tool-output-available"]),
        ("&ui=7", ["tool-output-available", "tool-input-available", "tool-approval-response"]),
    ],
)
async def test_a_stream_of_a_waiting_run_shows_what_its_client_can_read(
    shop: tuple[ApiClient, Ran], ui: str, shown: list[str]
) -> None:
    """Behind the events of the log and without ids: a position that a client counts is one in the log."""
    client, _ = shop
    session, asked = await ask(client)
    path = f"/run/api/executions/{await waiting_run(client, session)}/stream?{ui}"
    before = await client.get(path)
    await answer(client, session, decision(asked["tool-pay"], approved=True, input=EDITED))
    await locate(client, session, asked["tool-locate"])
    waiting = await client.get(path)
    log = (await client.get(path.replace("/stream", "/log"))).json
    known = ["tool-output-available", "tool-input-available", "tool-approval-response"]
    assert [chunk["type"] for chunk in log["answers"]] == known
    count = len(before.frames) - 1
    assert waiting.raw.startswith(before.raw.removesuffix(sse.DONE))
    assert waiting.frames[:count] == before.frames[:count]
    assert [chunk["type"] for chunk in waiting.chunks[count:]] == shown
    assert {frame.id for frame in waiting.frames[count:]} == {""}
    done = await client.post(client.at(session), decision(asked["tool-ship"], approved=True))
    assert done.complete
    assert "answers" not in (await client.get(path.replace("/stream", "/log"))).json
    rest = await client.get(f"{path}&startIndex={count}")
    assert (await client.get(path)).raw == before.raw.removesuffix(sse.DONE) + rest.raw


@pytest.mark.feature("F61", "F104")
async def test_an_open_stream_shows_each_answer_once_and_goes_on_with_the_run(
    shop: tuple[ApiClient, Ran], system: LocalSystem
) -> None:
    client, _ = shop
    session, asked = await ask(client)
    base = await system.gateway(stream_heartbeat_s=0.02)
    url = f"{base}/run/api/executions/{await waiting_run(client, session)}/stream?ui=7&follow=true"
    frames: list[sse.SseFrame] = []
    async with system.http.get(url) as response:

        async def read(until: bytes) -> None:
            found = read_frames(response, lambda frame: until in frame.data)
            frames.extend([frame async for frame in found])

        await read(b'"finishReason":"tool-calls"')
        await locate(client, session, asked["tool-locate"])
        await read(b"tool-output-available")
        await answer(client, session, decision(asked["tool-pay"], approved=False, reason="no"))
        await read(b"tool-approval-response")
        assert [frame.id for frame in frames[-2:]] == ["", ""]
        assert (await client.post(client.at(session), decision(asked["tool-ship"], approved=True))).complete
        await read(b"[DONE]")
    cursors = [frame.id for frame in frames if frame.id]
    assert len(cursors) == len(set(cursors)) == len(frames) - 3
    message = fold(chunks.decode(frame.data) for frame in frames[:-1])
    assert message == (await client.messages(session))[-1]
