"""Executions, resuming and several gateways, in every route family."""

import asyncio

import aiohttp
import pytest

from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol.ids import AgentName
from rejoin_protocol.run_request import AgentEntry
from rejoin_runner.agent.agent import Agent
from rejoin_runner.tools.tool_decorator import tool
from tests.support.clients.api_families import FAMILIES, RUN, ApiClient, Family, Script
from tests.support.clients.reconnecting_client import split_frames
from tests.support.clients.transcripts import Transcript, events
from tests.support.models.agent_teams import Breaks, Calls, scripted_agent
from tests.support.models.scripted_models import GatedModel
from tests.support.system.local_system import Answer, LocalSystem, read_frames
from tests.support.system.observation import wait_until

RESUME = (
    "/api/chat/{session}/stream",
    "/run/v1/conversations/{session}/stream",
    "/run/api/executions/{run}/stream",
)
ALL_OPERATIONS = {"x-emit-operations": "true"}
"""The APIs of several routes send different operations without this header."""


@pytest.mark.feature("F64")
async def test_an_execution_has_the_bytes_of_a_chat(client: ApiClient) -> None:
    """The same script by both routes is the same stream, but for ids and times; and each has its run's id."""
    said: list[Answer] = []
    for path in ("/run/api/chat", "/run/api/executions"):
        body = RUN.body(client.session(), "weather Paris", "m1")
        said.append(await client.post(path, body, x_emit_operations="true"))
    assert all(answer.headers["x-workflow-run-id"].startswith("run_") for answer in said)
    one, two = (events(answer) for answer in said)
    assert one == two


async def state(client: ApiClient, run: str) -> tuple[str, str]:
    found = (await client.get(f"/run/api/executions/{run}")).json
    return found["status"], found["state"]


async def announce(system: LocalSystem) -> None:
    """Have the agent be known before it has a runner."""
    await system.apps[0][SERVICE].backend.agents.announce(AgentEntry(AgentName(system.agent)))


@pytest.mark.feature("F65")
async def test_the_status_of_an_execution_follows_its_documented_states(system: LocalSystem) -> None:
    """queued and running read as running; suspended; running again; completed. A failing one is failed, an
    interrupted one completed, an unknown one 404.
    """

    go = asyncio.Event()

    @tool(needs_approval=True)
    async def wait() -> str:
        """Wait."""
        await go.wait()
        return "waited"

    client = ApiClient(system, await system.gateway())
    await announce(system)
    session = client.session()
    url, body = f"{client.base}/run/api/executions", RUN.body(session, "go", "m1")
    lines: Script = {"go": [[Calls("wait")], ["Done."]], "break": [[Breaks()]]}
    async with system.http.post(url, json=body) as response:
        run = response.headers["x-workflow-run-id"]
        assert await state(client, run) == ("running", "queued")
        await system.runner([scripted_agent(system.agent, lines, tools=[wait])])
        await response.read()
    assert await state(client, run) == ("suspended", "suspended")
    decision = {"approved": True}
    await client.post(f"/run/api/executions/{run}/approvals/call_0_0", decision)

    async def running() -> bool:
        return await state(client, run) == ("running", "running")

    await wait_until(running, "the continuation")
    go.set()
    await client.get(f"/run/api/executions/{run}/stream?follow=true")
    assert await state(client, run) == ("completed", "completed")
    failed = (await client.say(RUN, client.session(), "break")).headers["x-workflow-run-id"]
    assert await state(client, failed) == ("failed", "failed")
    assert (await client.get(f"/run/api/executions/{failed}")).json["error"]
    stopped = (await client.say(RUN, client.session(), "go")).headers["x-workflow-run-id"]
    assert (await client.post(f"/run/api/executions/{stopped}/interrupt")).json["interrupted"]
    await client.get(f"/run/api/executions/{stopped}/stream?follow=true")
    assert await state(client, stopped) == ("completed", "cancelled")
    assert (await client.get("/run/api/executions/run_unknown")).status == 404


@pytest.mark.feature("F66", "F67", "F68", "F69")
@pytest.mark.parametrize("route", [*RESUME, "/api/agents/{agent}/{session}/reconnect"])
async def test_every_form_of_a_cursor_resumes_at_its_position(
    client: ApiClient, other: ApiClient, route: str
) -> None:
    """On every route that resumes, at every event, also beyond an approval: the union is the whole, once."""
    session = client.session()
    asked = await client.post(RUN.path, RUN.body(session, "delete notes.txt", None), **ALL_OPERATIONS)
    run = asked.headers["x-workflow-run-id"]
    approved = {"runId": run, "threadId": session, "approved": True}
    rest = await other.post("/api/chat/approve", approved, **ALL_OPERATIONS)
    path = route.format(agent=client.system.agent, session=session, run=run)
    whole = split_frames((await client.get(f"{path}?startIndex=0&follow=true", **ALL_OPERATIONS)).raw)
    assert b"".join(whole) == asked.raw.replace(b"data: [DONE]\n\n", b"") + rest.raw
    for place in range(1, len(whole)):
        cursor = whole[place - 1].split(b"\n", 1)[0].removeprefix(b"id: ").decode()
        for query, headers in (
            (f"cursor={cursor}", {}),
            ("", {"Last-Event-ID": cursor}),
            (f"startIndex={place}", {}),
            (f"afterIdx={place - 1}", {}),
            ("", {"x-stream-start-index": str(place)}),
        ):
            found = await other.get(f"{path}?follow=true&{query}", **ALL_OPERATIONS, **headers)
            if place == len(whole) - 1 and cursor in f"{query}{headers}":
                assert (found.status, found.raw) == (204, b"")  # only [DONE] is left of it
            else:
                assert split_frames(found.raw) == whole[place:], (place, query, headers)


@pytest.mark.feature("F67", "F68")
@pytest.mark.parametrize("route", [*RESUME, "/api/agents/{agent}/{session}/reconnect"])
async def test_an_invalid_position_is_refused_with_the_documented_status(
    client: ApiClient, route: str
) -> None:
    """400 for an odd one, 410 for one beyond the log; without one 204 if nothing runs, an execution whole."""
    session = client.session()
    sent = await client.say(RUN, session, "count 2")
    run = sent.headers["x-workflow-run-id"]
    path = route.format(agent=client.system.agent, session=session, run=run)
    for query in ("cursor=x", "startIndex=x", "afterIdx=1.5", "ui=9"):
        assert (await client.get(f"{path}?{query}")).status == 400, query
    for query in ("startIndex=99", "afterIdx=99"):
        assert (await client.get(f"{path}?{query}")).status == 410, query
    idle = await client.get(path)
    assert idle.raw == (sent.raw if "executions" in route else b"")
    assert idle.status == (200 if "executions" in route else 204)
    unknown = route.format(agent=client.system.agent, session=client.session(), run="run_unknown")
    assert (await client.get(unknown)).status == (204 if "chat" in route or "reconnect" in route else 404)
    assert (await client.get(f"{unknown}?startIndex=0")).status == 404


@pytest.mark.feature("F67", "F68", "F82")
@pytest.mark.parametrize("family", FAMILIES, ids=str)
async def test_a_running_answer_is_rejoined_whole_elsewhere(system: LocalSystem, family: Family) -> None:
    """By every route, while it streams through another gateway; the history leaves it to the stream."""
    gate = asyncio.Semaphore(2)
    await system.runner([Agent(name=system.agent, model=GatedModel(gate, 4, []), text_interval_s=0)])
    client, other = ApiClient(system, await system.gateway()), ApiClient(system, await system.gateway())
    session = client.session()
    url = client.base + family.path.format(agent=system.agent, session=session)
    async with (
        system.http.post(url, json=family.body(session, "hello", None), headers=ALL_OPERATIONS) as response,
        asyncio.TaskGroup() as group,
    ):
        run = response.headers["x-workflow-run-id"]
        seen = [frame async for frame in read_frames(response, lambda frame: b" 1" in frame.data)]
        history = (await other.get(other.at(session))).json
        assert (len(history["messages"]), history["activeRunId"]) == (1, run)
        routes = [*RESUME, "/api/agents/{agent}/{session}/reconnect"]
        paths = [route.format(agent=system.agent, session=session, run=run) for route in routes]
        joined = [group.create_task(other.get(path, **ALL_OPERATIONS)) for path in paths]
        await wait_until(lambda: system.feeds(1).get(run) == len(paths), "the others' streams")
        gate.release()
        gate.release()
        seen += [frame async for frame in read_frames(response)]
    for one in joined:
        assert one.result().frames == seen
    history = (await other.get(other.at(session))).json
    assert (len(history["messages"]), "activeRunId" in history) == (2, False)


@pytest.mark.feature("F72")
async def test_a_client_that_leaves_stops_nothing(system: LocalSystem) -> None:
    """But for the agent chat's, see there."""
    gate = asyncio.Semaphore(1)
    await system.runner([Agent(name=system.agent, model=GatedModel(gate, 3, []), text_interval_s=0)])
    client = ApiClient(system, await system.gateway())
    for family in FAMILIES:
        if family.name == "agent_chat":
            continue
        session = client.session()
        url = client.base + family.path.format(agent=system.agent, session=session)
        async with system.http.post(url, json=family.body(session, "hello", None)) as response:
            async for _ in read_frames(response, lambda frame: b"text-delta" in frame.data):
                pass
            response.close()
        for _ in range(3):
            gate.release()

        async def completed(session: str = session) -> bool:
            return (await client.texts(session))[1:] == ["assistant:  0 1 2"]

        await wait_until(completed, f"the end of the run of {family}")


@pytest.mark.feature("F78")
async def test_the_stream_of_a_deleted_session_is_aborted(system: LocalSystem) -> None:
    """The runner ends the client's stream with `abort`, and the session's id can be used again at once."""
    gate = asyncio.Semaphore(2)
    await system.runner([Agent(name=system.agent, model=GatedModel(gate, 4, []), text_interval_s=0)])
    client, other = ApiClient(system, await system.gateway()), ApiClient(system, await system.gateway())
    session = client.session()
    url = client.base + client.at(session)
    async with system.http.post(url, json={"message": "hello"}) as response:
        async for _ in read_frames(response, lambda frame: b" 1" in frame.data):
            pass
        assert (await other.ask("DELETE", other.at(session))).json == {"success": True}
        rest = await response.read()
    assert b'"abort"' in rest
    assert rest.endswith(b"data: [DONE]\n\n")
    assert (await other.get(other.at(session))).status == 404
    assert (await other.get(other.at(session, "/reconnect"))).status == 204
    for _ in range(9):
        gate.release()
    assert (await other.post(other.at(session), {"message": "again"})).text == " 0 1 2 3"


@pytest.mark.feature("F78")
async def test_the_stream_of_a_deleted_session_breaks_where_no_runner_can_end_it(
    system: LocalSystem,
) -> None:
    """Within a heartbeat: a clean end would be read as a whole answer."""
    client = ApiClient(system, await system.gateway(stream_heartbeat_s=0.1))
    await announce(system)
    session = client.session()
    async with system.http.post(client.base + client.at(session), json={"message": "hello"}) as response:
        assert (await client.ask("DELETE", client.at(session))).status == 200
        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientConnectionError)):
            await response.read()
    assert (await client.get(client.at(session, "/reconnect"))).status == 204


@pytest.mark.feature("F75")
@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("busy", ["enqueue", "reject", "interrupt"])
async def test_a_message_to_a_busy_session_waits_is_refused_or_interrupts_as_requested(
    system: LocalSystem, family: Family, busy: str
) -> None:
    """The message waits for its turn, or is refused, or ends the answer before it."""
    gate = asyncio.Semaphore(1)
    await system.runner([Agent(name=system.agent, model=GatedModel(gate, 2, []), text_interval_s=0)])
    client = ApiClient(system, await system.gateway())
    session = client.session()
    path = family.path.format(agent=system.agent, session=session)
    async with system.http.post(client.base + path, json=family.body(session, "one", None)) as response:
        async for _ in read_frames(response, lambda frame: b"text-delta" in frame.data):
            pass
        body = family.body(session, "two", None) | {"whenBusy": busy}
        async with asyncio.TaskGroup() as group:
            second = group.create_task(client.post(path, body))
            if busy == "reject":
                assert (await second).status == 409
            for _ in range(0 if busy == "interrupt" else 3):
                gate.release()
            first = await response.read()
            for _ in range(3):
                gate.release()
    assert (b'"abort"' in first) == (busy == "interrupt")
    texts = await client.texts(session)
    if busy == "enqueue":
        assert texts == ["user: one", "assistant:  0 1", "user: two", "assistant:  0 1"]
    assert ("user: two" in texts) == (busy != "reject")


async def test_transcripts_name_what_differs(client: ApiClient) -> None:
    """The same conversation twice is the same transcript."""
    first, second = Transcript(client), Transcript(client)
    for one in (first, second):
        await one.ask("POST", "/run/api/chat", RUN.body(client.session(), "count 2", "m1"))
    assert first.text == second.text
