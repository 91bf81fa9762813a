"""Every route that changes something, each with a request whose client leaves, and the effect it has to have.

The routes are those of the gateway's table. A route that is in none of the tables here has no example yet.
"""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import msgspec

from rejoin_adapters.postgres.mcp_sessions import PostgresMcpSessions
from rejoin_gateway.api.mcp.endpoint import ENDPOINT
from rejoin_gateway.auth.authenticator import ANONYMOUS
from rejoin_gateway.core.backend import Backend
from rejoin_gateway.http.disconnect import READING
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_gateway.http.routes import Route
from rejoin_protocol.ids import AgentName, SessionId
from rejoin_runner.agent.agent import Agent
from rejoin_runner.demo import build_demo_agent
from rejoin_runner.tools.client_tool import client_tool
from tests.support.clients import left_effects as effects
from tests.support.clients.api_families import AISDK, GRAPH, PARTS, RUN, SESSION, ApiClient, Family, Json
from tests.support.clients.webhook_receiver import KEYS
from tests.support.models.scripted_models import SingleCallModel
from tests.support.system.local_system import LocalSystem, read_frames
from tests.support.system.observation import wait_until

LEAVE_AFTER_S = (0.0, 0.001, 0.002, 0.005)
CHANGE_NOTHING = frozenset({"POST /api/auth/login", "POST /api/auth/refresh"})
"""They check a credential."""


class LeftRequest(msgspec.Struct, frozen=True):
    """A request, and the query that returns whether the request has had its effect on the session."""

    method: str
    path: str
    body: Json
    effect: str
    headers: Mapping[str, str] = {}


ADD_WEBHOOK = """
    with home as (insert into tenants (id) values ('default') on conflict do nothing)
    insert into webhook_endpoints (id, tenant_id, url, events, secret, disabled_at)
    select 'we_' || left(md5($1), 24), 'default', 'https://a.example/' || $1, '{run.failed}', 's', now()
    returning id
"""


class Stage(msgspec.Struct, frozen=True):
    """A gateway with the demo agent, and its database."""

    client: ApiClient
    database: "asyncpg.Pool[asyncpg.Record]"

    async def answered(self, session: str) -> None:
        """The session has a question `m1` and its answer."""
        assert (await self.client.say(SESSION, session, "count 1", id="m1")).complete

    async def running(self, session: str) -> str:
        """The session has a run that is being executed. Returns its id."""
        url, body = self.client.base + self.client.at(session), {"message": "count 1000 every 20 ms"}
        async with self.client.system.http.post(url, json=body) as response:
            async for _ in read_frames(response, lambda frame: b"text-delta" in frame.data):
                pass
            return response.headers["x-workflow-run-id"]

    async def asking(self, session: str) -> asyncpg.Record:
        """The session has a run that waits for a decision. Returns the approval."""
        assert (await self.client.say(SESSION, session, "delete notes.txt")).complete
        return await self._waiting_call(session)

    async def calling(self, session: str) -> asyncpg.Record:
        """The session has a run that waits for the output of a client's tool. Returns the call."""
        path = f"/api/agents/{page_agent(self.client.system)}/{session}"
        assert (await self.client.post(path, {"message": "Where am I?"})).complete
        return await self._waiting_call(session)

    async def _waiting_call(self, session: str) -> asyncpg.Record:
        found = await self.database.fetchrow("select * from approvals where session_id = $1", session)
        assert found is not None
        return found

    async def dialogue(self, session: str) -> Mapping[str, str]:
        """The session is an open MCP session. Returns the headers of its requests."""
        backend: Backend = self.client.system.apps[0][SERVICE].backend
        sessions = PostgresMcpSessions(backend.store.database)  # type: ignore[attr-defined]
        await sessions.open(ANONYMOUS.owner, SessionId(session), AgentName(self.client.system.agent))
        return {"Mcp-Session-Id": session, "Accept": "application/json, text/event-stream"}


type Prepare = Callable[[Stage, str], Awaitable[LeftRequest]]


def send(family: Family, *, path: str = "", effect: str = effects.STARTED) -> Prepare:
    async def prepare(stage: Stage, session: str) -> LeftRequest:
        where = (path or family.path).format(agent=stage.client.system.agent, session=session)
        return LeftRequest("POST", where, family.body(session, "count 1", None), effect)

    return prepare


def ask(path: str, body: Callable[[str, str], Json], effect: str = effects.STARTED) -> Prepare:
    """`body` is called with session and agent."""

    async def prepare(stage: Stage, session: str) -> LeftRequest:
        agent = stage.client.system.agent
        return LeftRequest("POST", path.format(agent=agent), body(session, agent), effect)

    return prepare


def run_input(session: str) -> Json:
    """A request of AG-UI's client."""
    said = {"id": "m1", "role": "user", "content": "count 1"}
    fields: Json = {"state": {}, "tools": [], "context": [], "forwardedProps": {}}
    return {"threadId": session, "runId": f"r-{session}", "messages": [said], **fields}


def again(**changes: Any) -> Prepare:
    """Another request about the message `m1`, as the AI SDK sends it."""

    async def prepare(stage: Stage, session: str) -> LeftRequest:
        await stage.answered(session)
        message = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "count 2"}]}
        body = {"id": session, "messages": [message], "messageId": "m1"} | changes
        return LeftRequest("POST", "/api/chat", body, effects.STARTED_AGAIN)

    return prepare


def about(method: str, path: str, body: Callable[[str], Json], effect: str) -> Prepare:
    """A change of a session that has an answer. `body` is called with the session."""

    async def prepare(stage: Stage, session: str) -> LeftRequest:
        await stage.answered(session)
        where = path.format(agent=stage.client.system.agent, session=session)
        return LeftRequest(method, where, body(session), effect)

    return prepare


def replay(path: str) -> Prepare:
    """Another run of the session's answer, in a fork."""

    async def prepare(stage: Stage, session: str) -> LeftRequest:
        await stage.answered(session)
        run = await stage.database.fetchval("select id from runs where session_id = $1", session)
        return LeftRequest("POST", path.format(run=run), {"step": 1}, effects.REPLAYED)

    return prepare


def stop(path: str) -> Prepare:
    async def prepare(stage: Stage, session: str) -> LeftRequest:
        run = await stage.running(session)
        response = f"resp_{run.removeprefix('run_')}"
        where = path.format(agent=stage.client.system.agent, session=session, run=run, response=response)
        return LeftRequest("POST", where, None, effects.CANCELLED)

    return prepare


def decide(path: str, body: Callable[[asyncpg.Record], Json]) -> Prepare:
    async def prepare(stage: Stage, session: str) -> LeftRequest:
        approval = await stage.asking(session)
        where = path.format(
            agent=stage.client.system.agent,
            session=session,
            run=approval["run_id"],
            call=approval["call_id"],
        )
        return LeftRequest("POST", where, body(approval), effects.DECIDED)

    return prepare


def add_output(path: str) -> Prepare:
    async def prepare(stage: Stage, session: str) -> LeftRequest:
        call = await stage.calling(session)
        where = path.format(run=call["run_id"], call=call["call_id"])
        return LeftRequest("POST", where, {"output": "Oslo"}, effects.DECIDED)

    return prepare


def decided_part(approval: asyncpg.Record) -> Json:
    return {
        "type": "tool-delete_file",
        "toolCallId": approval["call_id"],
        "state": "approval-responded",
        "input": {},
        "approval": {"id": approval["id"], "approved": True},
    }


def call_tool(path: str) -> Prepare:
    async def prepare(stage: Stage, session: str) -> LeftRequest:
        params = {"name": "send-query-to-agent", "arguments": {"query": "count 1"}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        return LeftRequest("POST", path, body, effects.STARTED, await stage.dialogue(session))

    return prepare


def cancel_call(path: str) -> Prepare:
    """A notification that cancels the call `1`."""

    async def prepare(stage: Stage, session: str) -> LeftRequest:
        headers, client = await stage.dialogue(session), stage.client
        params = {"name": "send-query-to-agent", "arguments": {"query": "count 1000 every 20 ms"}}
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        named = {name.lower(): value for name, value in headers.items()}
        # In a session a broken connection stops nothing: the call goes on.
        await leave(client, LeftRequest("POST", path, call, "", headers), 0)

        async def started() -> bool:
            return bool(await stage.database.fetchval(effects.STARTED, session))

        await wait_until(started, "the start of the call")
        body = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
        return LeftRequest("POST", path, body, effects.CANCELLED, named)

    return prepare


def end_dialogue(path: str) -> Prepare:
    async def prepare(stage: Stage, session: str) -> LeftRequest:
        return LeftRequest("DELETE", path, None, effects.MCP_ENDED, await stage.dialogue(session))

    return prepare


def webhook(method: str, path: str, effect: str) -> Prepare:
    """A change of a webhook that is off."""

    async def prepare(stage: Stage, session: str) -> LeftRequest:
        id = await stage.database.fetchval(ADD_WEBHOOK, session)
        return LeftRequest(method, path.format(id=id), None, effect)

    return prepare


TEXT = "count 1"
SAID = [{"role": "user", "content": TEXT}]
CHANGES: Mapping[str, Mapping[str, Prepare]] = {
    "POST /api/agent/chat/stream": {
        "send": ask(
            "/api/agent/chat/stream", lambda s, _: {"messages": SAID, "conversationId": s}, effects.ENDED
        ),
        "decide": decide(
            "/api/agent/chat/stream",
            lambda approval: (
                {"approvalResponse": {"toolCallId": approval["call_id"], "approved": True}}
                | {"conversationId": approval["session_id"]}
            ),
        ),
    },
    "POST /ag-ui/{agent}": {"send": ask("/ag-ui/{agent}", lambda s, _: run_input(s))},
    "POST /api/agent/chat": {
        "start": ask("/api/agent/chat", lambda s, _: {"message": TEXT, "conversationId": s})
    },
    "POST /api/agent/chat/sync": {
        "send": ask("/api/agent/chat/sync", lambda s, _: {"message": TEXT, "conversationId": s})
    },
    "POST /api/chat": {
        "aisdk": send(AISDK),
        "graph": send(GRAPH),
        "parts": send(PARTS),
        "edit": again(),
        "regenerate": again(trigger="regenerate-message", messageId=None),
        "decide": decide(
            "/api/chat",
            lambda approval: {
                "id": approval["session_id"],
                "messages": [{"id": "a", "role": "assistant", "parts": [decided_part(approval)]}],
            },
        ),
    },
    "POST /api/chat/{id}/stop": {"stop": stop("/api/chat/{session}/stop")},
    "POST /api/agents/{agent}/{session}": {
        "send": send(SESSION),
        "decide": decide(
            "/api/agents/{agent}/{session}",
            lambda approval: {
                "type": "approval",
                "approval": {"approvalId": approval["id"], "approved": True},
            },
        ),
    },
    "PATCH /api/agents/{agent}/{session}": {
        "rename": about(
            "PATCH", "/api/agents/{agent}/{session}", lambda _: {"title": "renamed"}, effects.RENAMED
        )
    },
    "DELETE /api/agents/{agent}/{session}": {
        "delete": about("DELETE", "/api/agents/{agent}/{session}", lambda _: None, effects.DELETED)
    },
    "POST /api/agents/{agent}/{session}/interrupt": {
        "interrupt": stop("/api/agents/{agent}/{session}/interrupt")
    },
    "POST /api/agents/{agent}/{session}/feedback": {
        "rate": about(
            "POST",
            "/api/agents/{agent}/{session}/feedback",
            lambda s: {"type": "positive", "id": s},
            effects.RATED,
        )
    },
    "POST /run/api/chat": {
        "send": send(RUN),
        "decide": decide(
            "/run/api/chat",
            lambda approval: {
                "conversationId": approval["session_id"],
                "messages": [{"role": "assistant", "parts": [decided_part(approval)]}],
            },
        ),
    },
    "POST /run/api/executions": {"start": send(RUN, path="/run/api/executions")},
    "POST /run/api/executions/{run}/approvals/{call}": {
        "decide": decide("/run/api/executions/{run}/approvals/{call}", lambda _: {"approved": True})
    },
    "POST /run/api/executions/{run}/tool-outputs/{call}": {
        "output": add_output("/run/api/executions/{run}/tool-outputs/{call}")
    },
    "POST /run/api/executions/{run}/interrupt": {"interrupt": stop("/run/api/executions/{run}/interrupt")},
    "POST /run/v1/feedback": {
        "rate": about(
            "POST",
            "/run/v1/feedback",
            lambda s: {"conversationId": s, "type": "positive", "id": s},
            effects.RATED,
        )
    },
    "POST /run/v1/events": {
        "report": ask("/run/v1/events", lambda s, _: {"type": "shown", "id": s}, effects.REPORTED)
    },
    "POST /api/chat/approve": {
        "decide": decide(
            "/api/chat/approve",
            lambda approval: {
                "runId": approval["run_id"],
                "threadId": approval["session_id"],
                "approved": True,
            },
        )
    },
    "DELETE /api/threads/{id}": {
        "delete": about("DELETE", "/api/threads/{session}", lambda _: None, effects.DELETED)
    },
    "POST /api/webhooks": {
        "add": ask("/api/webhooks", lambda s, _: {"url": f"https://a.example/{s}"}, effects.WEBHOOK_ADDED)
    },
    "DELETE /api/webhooks/{id}": {"remove": webhook("DELETE", "/api/webhooks/{id}", effects.WEBHOOK_GONE)},
    "POST /api/runs/{run}/replay": {"replay": replay("/api/runs/{run}/replay")},
    "POST /api/webhooks/{id}/replay": {
        "replay": webhook("POST", "/api/webhooks/{id}/replay", effects.WEBHOOK_ON)
    },
    "POST /api/threads/{id}/fork": {
        "fork": about(
            "POST",
            "/api/threads/{session}/fork",
            lambda s: {"messageId": "m1", "threadId": f"fork of {s}"},
            effects.FORKED,
        )
    },
    **{
        f"POST {path}": {"send": ask(path, lambda s, _: {"prompt": TEXT, "id": s})}
        for path in ("/api/completion", "/api/object")
    },
    **{
        f"POST {path}": {
            "send": ask(
                path,
                lambda s, agent: {"model": agent, "messages": SAID, "metadata": {"conversation_id": s}},
            )
        }
        for path in ("/run/v1/chat/completions", "/v1/chat/completions")
    },
    **{
        f"POST {path}": {
            "send": ask(path, lambda s, agent: {"model": agent, "input": TEXT, "conversation": s})
        }
        for path in ("/run/v1/responses", "/v1/responses")
    },
    **{
        f"POST {path}": {"cancel": stop(path)}
        for path in ("/run/v1/responses/{response}/cancel", "/v1/responses/{response}/cancel")
    },
    **{
        f"POST {path}": {"call": call_tool(path), "cancel": cancel_call(path)}
        for path in ("/run/v1/mcp", "/v1/mcp")
    },
    **{f"DELETE {path}": {"end": end_dialogue(path)} for path in ("/run/v1/mcp", "/v1/mcp")},
}


def changing(routes: Sequence[Route]) -> set[str]:
    """The routes that change something."""
    names = {f"{route.method} {route.path}" for route in routes if route.method not in READING}
    return names - CHANGE_NOTHING


async def leave(client: ApiClient, request: LeftRequest, after_s: float) -> None:
    """Write a whole request and close the connection `after_s` later."""
    place = urlsplit(client.base)
    data = b"" if request.body is None else msgspec.json.encode(request.body)
    head = [
        f"{request.method} {request.path} HTTP/1.1",
        f"Host: {place.netloc}",
        f"Content-Length: {len(data)}",
        *(["Content-Type: application/json"] if data else []),
        *(f"{name}: {value}" for name, value in request.headers.items()),
    ]
    _, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write("\r\n".join([*head, "", ""]).encode() + data)
    await writer.drain()
    if after_s:
        await asyncio.sleep(after_s)
    writer.close()


class Cell(msgspec.Struct, frozen=True):
    """One request of one route, left after some time."""

    route: str
    name: str
    after_s: float


def page_agent(system: LocalSystem) -> str:
    """The agent with a client's tool."""
    return f"{system.agent}-page"


def cells(delays: Sequence[float]) -> Iterator[Cell]:
    for route, requests in CHANGES.items():
        for name in requests:
            for after_s in delays:
                yield Cell(route, name, after_s)


@asynccontextmanager
async def open_stage(system: LocalSystem) -> AsyncIterator[Stage]:
    """A stage whose runner does not look for lost requests."""
    locate = client_tool("locate", "Find out where the user is.", output=str)
    page = Agent(name=page_agent(system), model=SingleCallModel("locate", {}), tools=[locate])
    demo = msgspec.structs.replace(build_demo_agent(), name=system.agent)
    await system.runner([demo, page], sweep_interval_s=3600)
    client = ApiClient(system, await system.gateway(context_encryption_keys=KEYS))
    await system.apps[0][ENDPOINT].sdk()  # its import takes seconds
    async with asyncpg.create_pool(system.database_url, min_size=1, max_size=4) as database:
        yield Stage(client, database)


async def measure(stage: Stage, cell: Cell, deadline_s: float) -> float | None:
    """The time from the end of the connection to the effect; None if it took longer than `deadline_s`."""
    session = stage.client.session()
    request = await CHANGES[cell.route][cell.name](stage, session)
    await leave(stage.client, request, cell.after_s)
    left_s = monotonic()

    async def has_effect() -> bool:
        return bool(await stage.database.fetchval(request.effect, session))

    try:
        await wait_until(has_effect, request.effect, deadline_s)
    except AssertionError:
        return None
    return monotonic() - left_s


async def measure_all(
    stage: Stage, wanted: Sequence[Cell], deadline_s: float, *, at_once: int
) -> dict[Cell, list[float | None]]:
    """As `measure`, for all cells, some at once, in random order."""
    order = secrets.SystemRandom().sample(wanted, len(wanted))
    taken: dict[Cell, list[float | None]] = {cell: [] for cell in wanted}
    numbers = itertools.count()

    async def work() -> None:
        while (number := next(numbers)) < len(order):
            cell = order[number]
            taken[cell].append(await measure(stage, cell, deadline_s))

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())
    return taken
