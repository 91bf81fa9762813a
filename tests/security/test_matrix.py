"""Every route against every credential that must not pass: the documented status, and no effect.

The routes are those that the gateway mounts, so a new one is included; a route without an example here fails.
Each is called for data of Ann, with one credential after the other.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from rejoin_adapters.embedded import Servers
from rejoin_gateway.app import ROUTES
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_gateway.http.routes import OPENAI_BASES, ErrorFormat, Route
from rejoin_protocol.ids import SessionId
from tests.support.clients.attacked_gateway import (
    AttackedGateway,
    SideEffects,
    Victim,
    open_attacked_gateway,
)

TOOLS_CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "send-query-to-agent", "arguments": {"query": "hello"}},
}
TEXT = [{"type": "text", "text": "hello"}]
SAID = [{"role": "user", "content": "hello"}]
UI = [{"id": "u-matrix", "role": "user", "parts": TEXT}]


class Example(msgspec.Struct, frozen=True):
    """A request that works for Ann. `{…}` in texts are hers. `id`: what the path's `{id}` names.

    `lists`: somebody else gets what is theirs, which is nothing of hers. `makes`: another tenant's or user's
    session of the same name is another one. `reports`: somebody else stores a client event of his own, which
    may name a session of any id. `tenants`: it is the tenant's, and none of its users or agents may read it.
    `asks`: it is for a call of a client's tool, and hers waits for an approval: she is told so.
    `agents`: it is about an agent, which all users and tenants may see.
    """

    body: Any = None
    headers: Mapping[str, str] = {}
    id: str = "session"
    lists: bool = False
    makes: bool = False
    reports: bool = False
    tenants: bool = False
    asks: bool = False
    agents: bool = False


HERE = Example()
MCP = Example(TOOLS_CALL, {"Mcp-Session-Id": "{dialogue}", "Accept": "application/json, text/event-stream"})
EXAMPLES: dict[str, Example] = {
    "POST /api/agent/chat/stream": Example({"messages": SAID, "conversationId": "{session}"}, makes=True),
    "POST /api/agent/chat": Example({"message": "hello", "conversationId": "{session}"}, makes=True),
    "POST /api/agent/chat/sync": Example({"message": "hello", "conversationId": "{session}"}, makes=True),
    "GET /api/agent/chat/{run}": HERE,
    "POST /api/chat": Example({"id": "{session}", "messages": UI}, makes=True),
    "POST /api/completion": Example({"prompt": "hello", "id": "{session}"}, makes=True),
    "POST /api/object": Example({"prompt": "hello", "id": "{session}"}, makes=True),
    "GET /api/chat/{id}/stream": Example(headers={"x-stream-start-index": "0"}),
    "POST /api/chat/{id}/stop": HERE,
    "GET /api/agents/{agent}/{session}": HERE,
    "POST /api/agents/{agent}/{session}": Example({"message": "hello"}, makes=True),
    "PATCH /api/agents/{agent}/{session}": Example({"title": "mine"}),
    "DELETE /api/agents/{agent}/{session}": HERE,
    "GET /api/agents/{agent}/{session}/usage": HERE,
    "GET /api/agents/{agent}/{session}/reconnect": Example(headers={"x-stream-start-index": "0"}),
    "GET /api/agents/{agent}/{session}/{run}/stream": Example(headers={"x-stream-start-index": "0"}),
    "POST /api/agents/{agent}/{session}/interrupt": HERE,
    "POST /run/api/chat": Example({"messages": SAID, "conversationId": "{session}"}, makes=True),
    "GET /run/api/chat/{id}/stream": Example(headers={"x-stream-start-index": "0"}),
    "POST /run/api/executions": Example({"messages": SAID, "conversationId": "{session}"}, makes=True),
    "GET /run/api/executions/{run}": HERE,
    "GET /run/api/executions/{run}/stream": HERE,
    "GET /run/api/executions/{run}/log": HERE,
    "POST /run/api/executions/{run}/approvals/{call}": Example({"approved": True}),
    "POST /run/api/executions/{run}/tool-outputs/{call}": Example({"output": "mine"}, asks=True),
    "POST /run/api/executions/{run}/interrupt": HERE,
    "GET /run/v1/conversations": Example(lists=True),
    "GET /run/v1/conversations/{id}": HERE,
    "GET /run/v1/conversations/{id}/stream": Example(headers={"x-stream-start-index": "0"}),
    "GET /run/v1/conversations/{id}/pending-approvals": HERE,
    "GET /run/v1/conversations/{id}/executions": HERE,
    "POST /run/v1/feedback": Example({"conversationId": "{session}", "type": "positive"}),
    "GET /run/v1/feedback": Example(lists=True),
    "POST /run/v1/events": Example({"type": "shown", "conversationId": "{session}"}, reports=True),
    "GET /run/v1/events": Example(lists=True),
    "POST /api/agents/{agent}/{session}/feedback": Example({"type": "positive"}),
    "GET /api/agents/{agent}/{session}/feedback": HERE,
    "GET /api/agents": Example(lists=True),
    "GET /api/audit": Example(tenants=True),
    "GET /api/webhooks": Example(tenants=True),
    "POST /api/webhooks": Example({"url": "https://example.com/hook"}, tenants=True),
    "DELETE /api/webhooks/{id}": Example(tenants=True, id="webhook"),
    "GET /api/webhooks/{id}/deliveries": Example(tenants=True, id="webhook"),
    "POST /api/webhooks/{id}/replay": Example(tenants=True, id="webhook"),
    "GET /api/runs": Example(lists=True),
    "POST /api/runs/{run}/replay": HERE,
    "GET /api/runs/{run}/model-calls": HERE,
    "GET /api/usage": Example(tenants=True),
    "GET /api/approvals": Example(lists=True),
    "GET /api/sessions": Example(lists=True),
    "GET /api/overview": Example(lists=True),
    "GET /run/api/artifacts/{id}": Example(id="artifact"),
    "GET /api/files/{id}": Example(id="file"),
    "POST /api/chat/approve": Example({"runId": "{run}", "threadId": "{session}", "approved": True}),
    "GET /api/threads": Example(lists=True),
    "GET /api/threads/{id}": HERE,
    "DELETE /api/threads/{id}": HERE,
    "POST /api/threads/{id}/fork": Example({"messageId": "{message}"}),
    "POST /run/v1/mcp": MCP,
    "DELETE /run/v1/mcp": msgspec.structs.replace(MCP, body=None),
    "POST /v1/mcp": MCP,
    "DELETE /v1/mcp": msgspec.structs.replace(MCP, body=None),
    "POST /ag-ui/{agent}": Example(
        {
            "threadId": "{session}",
            "runId": "r-matrix",
            "messages": [],
            "resume": [{"interruptId": "{approval}", "status": "resolved", "payload": True}],
        }
    ),
    "GET /ag-ui/{agent}/threads/{id}": HERE,
    "GET /ag-ui/{agent}/runs/{run}": HERE,
}
EXAMPLES |= {
    route.format(base): example
    for base in OPENAI_BASES
    for route, example in {
        "POST {}/chat/completions": Example(
            {"model": "{agent}", "messages": SAID, "metadata": {"conversation_id": "{session}"}}, makes=True
        ),
        "GET {}/models": Example(lists=True),
        "GET {}/models/{{agent}}": Example(agents=True),
        "POST {}/responses": Example(
            {"model": "{agent}", "input": "hello", "conversation": "{session}"}, makes=True
        ),
        "GET {}/responses/{{response}}": HERE,
        "GET {}/responses/{{response}}/input_items": HERE,
        "POST {}/responses/{{response}}/cancel": HERE,
    }.items()
}
OPEN = [route for route in ROUTES if route.scope is None]
CLOSED = [route for route in ROUTES if route.scope is not None]


def name(route: Route) -> str:
    return f"{route.method} {route.path}"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def attacked(servers: Servers) -> AsyncIterator[AttackedGateway]:
    async with open_attacked_gateway(servers) as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def ann(attacked: AttackedGateway) -> Victim:
    return await attacked.ann()


def filled(value: Any, hers: Mapping[str, str]) -> Any:
    """A value with Ann's ids in the place of `{…}` in its texts."""
    match value:
        case str():
            return value.format_map(hers) if value.startswith("{") else value
        case dict():
            return {key: filled(one, hers) for key, one in value.items()}
        case list():
            return [filled(one, hers) for one in value]
        case _:
            return value


class Told(msgspec.Struct, frozen=True):
    """An answer."""

    status: int
    headers: Mapping[str, str]
    raw: bytes


async def ask(attacked: AttackedGateway, route: Route, ann: Victim, credential: str | None) -> Told:
    """The route's example, with a credential or none."""
    example, hers = EXAMPLES.get(name(route), HERE), msgspec.to_builtins(ann)
    path = route.path.replace("{id}", hers[example.id])
    for field, value in hers.items():
        path = path.replace(f"{{{field}}}", value)
    headers = filled(dict(example.headers), hers) | {"x-agent-id": ann.agent}
    if credential is not None:
        headers["Authorization"] = f"Bearer {credential}"
    body = filled(example.body, hers)
    async with attacked.system.http.request(
        route.method, attacked.base + path, json=body, headers=headers
    ) as one:
        return Told(one.status, one.headers, await one.read())


def expected(example: Example, wrong: str) -> int:
    """The documented status for this fault."""
    if wrong == "missing scope":
        return 403
    if not wrong.startswith("other "):
        return 401
    if example.agents:
        return 404 if wrong == "other agent" else 200
    if example.reports:
        return 404 if wrong == "other agent" else 201
    if example.tenants:
        return 404
    theirs = example.lists or (example.makes and wrong != "other agent")
    return 200 if theirs else 404


def test_every_route_has_an_example() -> None:
    """A new route without an example here fails this test."""
    assert {name(route) for route in CLOSED} == set(EXAMPLES)


@pytest.mark.feature("F38", "F39", "F40")
@pytest.mark.parametrize("route", CLOSED, ids=name)
async def test_who_may_not_gets_the_documented_status_and_nothing_happens(
    attacked: AttackedGateway, ann: Victim, route: Route
) -> None:
    """A missing, malformed, wrong, expired or revoked credential is 401, and a missing scope is 403.
    Resources of another tenant, user or agent are 404; lists have the caller's own entries.
    """
    assert route.scope is not None
    example = EXAMPLES[name(route)]
    credentials, after = await attacked.credentials(route.scope), await attacked.everything(ann)
    for wrong, credential in credentials.items():
        before = after
        told = await ask(attacked, route, ann, credential)
        assert told.status == expected(example, wrong), (wrong, told.raw[:300])
        after = await attacked.everything(ann)
        if told.status == 201:
            own = "client_events"
            assert after.hers | {own: None} == before.hers | {own: None}, wrong
        elif told.status == 200:
            assert example.makes or after.hers == before.hers, wrong
            assert lost_of(before, after) == {}, wrong
            assert not [one for one in (ann.run, ann.message) if one.encode() in told.raw], wrong
        else:
            assert after == before, wrong
            refused_in_shape(route, told)


def lost_of(before: SideEffects, after: SideEffects) -> dict[str, Any]:
    """What Ann's tenant had before and has no more; but for the tokens that all of its users spend."""
    lost = {
        table: [row for row in rows if row not in (after.hers[table] or ())]
        for table, rows in before.hers.items()
        if isinstance(rows, list) and table not in {"spending", "usage_days"}
    }
    return {table: rows for table, rows in lost.items() if rows}


def refused_in_shape(route: Route, told: Told) -> None:
    if told.status == 401:
        assert told.headers["WWW-Authenticate"] == "Bearer"
    assert "error" in msgspec.json.decode(told.raw)
    if route.error_format is ErrorFormat.PROBLEM and not route.path.endswith("/mcp"):
        assert told.headers["Content-Type"].startswith("application/problem+json")


def approvals(ann: Victim, id: str) -> dict[str, Any]:
    """Each family's way to say yes to Ann's question."""
    part = {"type": "tool-delete", "toolCallId": ann.call, "state": "approval-responded"}
    answered = {"id": "a", "role": "assistant", "parts": [part | {"approval": {"id": id, "approved": True}}]}
    decision = {"approvalId": id, "approved": True}
    response = {"type": "mcp_approval_response", "approval_request_id": id, "approve": True}
    return {
        "/api/chat": {"id": ann.session, "messages": [answered]},
        "/run/api/chat": {"conversationId": ann.session, "messages": [answered]},
        "/api/chat/approve": {"runId": ann.run, "threadId": ann.session, "approved": True},
        f"/api/agents/another/{ann.session}": {"type": "approval", "approval": decision},
        "/api/agent/chat/stream": {
            "conversationId": ann.session,
            "approvalResponse": {"toolCallId": ann.call, "approved": True},
        },
        f"/run/api/executions/{ann.run}/approvals/{ann.call}": {"approved": True},
        "/ag-ui/another": {
            "threadId": ann.session,
            "runId": "r-matrix",
            "messages": [],
            "resume": [{"interruptId": id, "status": "resolved", "payload": True}],
        },
        "/run/v1/responses": {"model": "x", "input": [response], "previous_response_id": ann.response},
    }


@pytest.mark.feature("F87")
async def test_a_key_of_another_agent_decides_nothing_in_any_family(
    attacked: AttackedGateway, ann: Victim
) -> None:
    """It is her own, and has every scope."""
    headers = {"Authorization": f"Bearer {await attacked.key(agent='another')}"}
    backend = attacked.system.apps[0][SERVICE].backend
    [question] = await backend.store.pending_approvals(attacked.owner, SessionId(ann.session))
    before = await attacked.everything(ann)
    for path, body in approvals(ann, question.request.id).items():
        async with attacked.system.http.post(attacked.base + path, json=body, headers=headers) as response:
            assert response.status == 404, (path, await response.read())
    assert await attacked.everything(ann) == before


@pytest.mark.feature("F38")
@pytest.mark.parametrize("route", CLOSED, ids=name)
async def test_the_one_who_may_gets_through(attacked: AttackedGateway, route: Route) -> None:
    """The examples are valid requests: in the tests above, only the credential causes the refusal."""
    key = await attacked.key(user=None) if EXAMPLES[name(route)].tenants else await attacked.key()
    told = await ask(attacked, route, await attacked.ann(), key)
    if EXAMPLES[name(route)].asks:
        assert b"waits for no output" in told.raw
    else:
        assert told.status in {200, 201, 202, 204}, told.raw[:300]
    await attacked.still()


@pytest.mark.parametrize("route", OPEN, ids=name)
async def test_what_is_open_is_the_same_for_everybody(
    attacked: AttackedGateway, ann: Victim, route: Route
) -> None:
    """A public route answers the same for every credential, has no effect and shows no user's data. A login
    without a body is 400.
    """
    key = await attacked.key()
    before = await attacked.everything(ann)
    told = [await ask(attacked, route, ann, one) for one in (None, "x", key)]
    assert {one.status for one in told} <= {200, 400, 404}
    assert len({one.status for one in told}) == 1
    assert all(ann.run.encode() not in one.raw for one in told)
    assert await attacked.everything(ann) == before
