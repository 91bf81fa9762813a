"""The MCP endpoint, with both protocol generations of the official client and with plain requests."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx2
import jwt
import msgspec
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    CallToolResult,
    TextContent,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from rejoin_adapters.store_types import Owner, Run
from rejoin_gateway.api.mcp.chat_tool import TOOL
from rejoin_gateway.api.mcp.endpoint import WITH_SESSIONS
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol.ids import TenantId
from rejoin_protocol.lifecycle import State
from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.observation import wait_until

ERAS = pytest.mark.parametrize("mode", ["legacy", "auto"])
HEADERS = {"Accept": "application/json, text/event-stream"}
CLIENT = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
NOTHING: Mapping[str, str] = {}
PATHS = ("/run/v1/mcp", "/v1/mcp")
SIGNING = "signed with more than thirty-two characters"


@pytest.fixture
async def base(system: LocalSystem) -> str:
    await system.runner()
    return await system.gateway()


@asynccontextmanager
async def connected(base: str, mode: str = "auto", **headers: str) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(f"{base}/run/v1/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


def token(user: str) -> str:
    claims = {"sub": user, "iss": "us", "aud": "rejoin", "exp": 2**32}
    return jwt.encode(claims, SIGNING, "HS256")


def text_of(result: CallToolResult) -> str:
    return "".join(one.text for one in result.content if isinstance(one, TextContent))


async def say(
    system: LocalSystem,
    base: str,
    method: str,
    params: Any,
    headers: Mapping[str, str] = NOTHING,
    *,
    id: int | None = 1,
) -> Answer:
    body = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if id is None else {"id": id})
    async with system.http.post(f"{base}/run/v1/mcp", json=body, headers={**HEADERS, **headers}) as response:
        return await Answer.of(response)


async def opened(system: LocalSystem, base: str) -> dict[str, str]:
    """A session; the header of its requests."""
    answer = await say(system, base, "initialize", CLIENT)
    assert answer.status == 200
    return {"Mcp-Session-Id": answer.headers["mcp-session-id"]}


async def query(system: LocalSystem, base: str, text: str, id: int, headers: Mapping[str, str]) -> Any:
    call = {"name": TOOL, "arguments": {"query": text}}
    answer = await say(system, base, "tools/call", call, headers, id=id)
    *_, last = [line for line in answer.raw.splitlines() if line.startswith(b"data: ")]
    return msgspec.json.decode(last.removeprefix(b"data: "))["result"]


async def query_alone(system: LocalSystem, base: str, text: str) -> Answer:
    """A call of the era without sessions, by hand."""
    meta = {PROTOCOL_VERSION_META_KEY: "2026-07-28", CLIENT_CAPABILITIES_META_KEY: {}}
    call = {"name": TOOL, "arguments": {"query": text}, "_meta": meta}
    headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": TOOL}
    return await say(system, base, "tools/call", call, headers)


def test_the_versions_with_sessions_are_those_of_the_sdk() -> None:
    assert frozenset(HANDSHAKE_PROTOCOL_VERSIONS) == WITH_SESSIONS


@pytest.mark.feature("F81")
@ERAS
async def test_a_client_lists_one_tool_calls_it_and_gets_text(
    base: str, system: LocalSystem, mode: str
) -> None:
    async with connected(base, mode) as client:
        assert client.protocol_version == ("2025-11-25" if mode == "legacy" else "2026-07-28")
        [tool] = (await client.list_tools()).tools
        assert tool.name == TOOL
        assert tool.input_schema["required"] == ["query"]
        assert system.agent in (tool.description or "")
        result = await client.call_tool(TOOL, {"query": "count 3"})
        assert not result.is_error
        assert text_of(result) == "1 2 3"


@pytest.mark.feature("F81")
@pytest.mark.parametrize("path", PATHS)
async def test_refusals_have_the_statuses_and_codes_that_were_promised(
    base: str, system: LocalSystem, path: str
) -> None:
    url, body = f"{base}{path}", {"jsonrpc": "2.0", "id": 7, "method": "tools/list"}
    async with system.http.get(url, headers=HEADERS) as response:
        assert response.status == 405
        assert "POST" in response.headers["Allow"]
    for headers, status, code in (
        ({}, 400, -32602),
        ({"Mcp-Session-Id": "nobodys"}, 404, -32001),
        ({"Mcp-Session-Id": "x" * 300}, 404, -32001),
    ):
        async with system.http.post(url, json=body, headers=HEADERS | headers) as response:
            answer = await Answer.of(response)
        assert (answer.status, answer.json["error"]["code"], answer.json["id"]) == (status, code, 7)
        async with system.http.delete(url, headers=headers) as response:
            assert response.status == status


async def test_an_invalid_message_is_refused_with_the_reason(base: str, system: LocalSystem) -> None:
    async def post(raw: bytes, **headers: str) -> Answer:
        sent = HEADERS | {"Content-Type": "application/json"} | headers
        async with system.http.post(f"{base}/v1/mcp", data=raw, headers=sent) as response:
            return await Answer.of(response)

    assert (await post(b"{")).json["error"]["code"] == -32700
    assert (await post(b"[]")).status == 400
    assert b"-32602" in (await post(b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"a":NaN}}')).raw
    assert (await post(b"{}", Accept="text/html")).status in {400, 406}
    assert (await post(b"{}", **{"MCP-Protocol-Version": "1999-01-01"})).status == 400


@ERAS
async def test_a_call_with_invalid_arguments_returns_an_error_result(base: str, mode: str) -> None:
    async with connected(base, mode) as client:
        for arguments, words in (
            ({}, "query"),
            ({"query": 7}, "str"),
            ({"query": " "}, "empty"),
            ({"query": "hi", "more": 1}, "more"),
        ):
            result = await client.call_tool(TOOL, arguments)
            assert result.is_error, arguments
            assert words in text_of(result)


async def test_a_session_is_one_conversation_at_every_gateway(base: str, system: LocalSystem) -> None:
    other = await system.gateway()
    session = await opened(system, base)
    assert (await query(system, other, "count 2", 2, session))["content"][0]["text"] == "1 2"
    assert (await query(system, base, "hello", 2, session))["isError"] is False, "ids may begin again"
    messages = (await system.get(f"{base}/api/agents/{system.agent}/{session['Mcp-Session-Id']}")).json[
        "messages"
    ]
    assert [one["role"] for one in messages] == ["user", "assistant", "user", "assistant"]


async def test_a_deleted_mcp_session_is_unknown_at_every_gateway_and_its_history_stays(
    base: str, system: LocalSystem
) -> None:
    other = await system.gateway()
    said, silent = await opened(system, base), await opened(system, base)
    await query(system, base, "count 1", 2, said)
    for session in (said, silent):
        async with system.http.delete(f"{other}/run/v1/mcp", headers=session) as response:
            assert response.status == 204
        assert (await say(system, base, "tools/list", {}, session)).status == 404
    stored = f"{base}/api/agents/{system.agent}"
    assert len((await system.get(f"{stored}/{said['Mcp-Session-Id']}")).json["messages"]) == 2
    assert (await system.get(f"{stored}/{silent['Mcp-Session-Id']}")).status == 404


async def test_a_chat_session_is_no_mcp_session(base: str, system: LocalSystem) -> None:
    id = system.fresh("s")
    await system.post(base, system.chat(id, "count 1"))
    assert (await say(system, base, "tools/list", {}, {"Mcp-Session-Id": id})).status == 404


async def test_without_a_session_a_conversation_goes_on_by_its_id(base: str, system: LocalSystem) -> None:
    async with connected(base) as client:
        first = await client.call_tool(TOOL, {"query": "count 1"})
        assert first.meta is not None
        conversation = first.meta["conversationId"]
        await client.call_tool(TOOL, {"query": "count 2", "conversationId": conversation})
    messages = (await system.get(f"{base}/api/agents/{system.agent}/{conversation}")).json["messages"]
    assert len(messages) == 4


@ERAS
async def test_progress_is_reported_while_the_run_continues(base: str, mode: str) -> None:
    heard: list[tuple[float, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        del total
        heard.append((progress, message))

    async with connected(base, mode) as client:
        result = await client.call_tool(TOOL, {"query": "weather Oslo"}, progress_callback=on_progress)
    assert "Oslo" in text_of(result)
    counts = [count for count, _ in heard]
    assert counts == sorted(set(counts))
    assert "Calls weather" in [message for _, message in heard]


@ERAS
async def test_a_call_that_waits_for_an_approval_names_the_way_to_decide(
    base: str, system: LocalSystem, mode: str
) -> None:
    async with connected(base, mode) as client:
        result = await client.call_tool(TOOL, {"query": "delete notes.txt"})
        assert not result.is_error
        assert result.meta is not None
        text, about = text_of(result), result.meta
        state = (await system.get(f"{base}/run/api/executions/{about['runId']}")).json
        [pending] = state["pendingApprovals"]
        route = f"/run/api/executions/{about['runId']}/approvals/{pending['toolCallId']}"
        assert about["status"] == "suspended"
        assert all(word in text for word in (route, pending["approvalId"], "notes.txt", "delete"))
    # The client has left and ended its session: the question is open all the same.
    async with system.http.post(f"{base}{route}", json={"approved": True}) as response:
        assert response.status == 200
    await wait_until(lambda: stands(system, State.COMPLETED), "the run's end")


async def test_a_run_that_fails_is_a_result_that_failed(base: str) -> None:
    async with connected(base) as client:
        result = await client.call_tool(TOOL, {"query": "fail"})
        assert result.is_error
        assert text_of(result)


async def runs(system: LocalSystem) -> list[Run]:
    """The agent's runs, newest first."""
    found = await system.apps[0][SERVICE].backend.store.list_runs(Owner(TenantId("default")), limit=100)
    return [one.run for one in found if one.run.agent == system.agent]


async def stands(system: LocalSystem, state: State) -> bool:
    return [run.state for run in await runs(system)] == [state]


async def test_closing_the_response_of_a_sessionless_call_interrupts_its_run(
    base: str, system: LocalSystem
) -> None:
    async with connected(base) as client, asyncio.TaskGroup() as group:
        call = group.create_task(client.call_tool(TOOL, {"query": "sleep 60"}))
        await wait_until(lambda: stands(system, State.RUNNING), "the run's start")
        call.cancel()
        await wait_until(lambda: stands(system, State.CANCELLED), "the run's end")


async def test_a_cancelled_notification_interrupts_the_run_at_any_gateway(
    base: str, system: LocalSystem
) -> None:
    other = await system.gateway()
    session = await opened(system, base)
    async with asyncio.TaskGroup() as group:
        call = group.create_task(query(system, base, "sleep 60", 5, session))
        await wait_until(lambda: stands(system, State.RUNNING), "the run's start")
        for id in ("5", 4):  # another request's names
            await say(system, other, "notifications/cancelled", {"requestId": id}, session, id=None)
        assert not (await runs(system))[0].interrupted
        answer = await say(system, other, "notifications/cancelled", {"requestId": 5}, session, id=None)
        assert answer.status == 202
        await wait_until(lambda: stands(system, State.CANCELLED), "the run's end")
    result = call.result()
    assert result["isError"]
    assert "interrupted" in result["content"][0]["text"]


async def test_the_official_client_cancels_in_a_session_too(base: str, system: LocalSystem) -> None:
    async with connected(base, "legacy") as client, asyncio.TaskGroup() as group:
        call = group.create_task(client.call_tool(TOOL, {"query": "sleep 60"}))
        await wait_until(lambda: stands(system, State.RUNNING), "the run's start")
        call.cancel()
        await wait_until(lambda: stands(system, State.CANCELLED), "the run's end")


async def test_in_a_session_a_broken_connection_stops_nothing(base: str, system: LocalSystem) -> None:
    session = await opened(system, base)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await query(system, base, "count 30 every 100 ms", 2, session)
    await wait_until(lambda: stands(system, State.COMPLETED), "the run's end")


class LeavingTransport(httpx2.AsyncHTTPTransport):
    """Closes the connection of a call, once the whole request is written."""

    def __init__(self, after_s: float) -> None:
        super().__init__()
        self._after_s = after_s

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See `httpx2`."""

        async def leave(event: str, _: Any) -> None:
            if event == "http11.send_request_body.complete":
                await asyncio.sleep(self._after_s)
                raise httpx2.ReadError("the connection broke", request=request)

        if request.headers.get("Mcp-Session-Id") and b"tools/call" in await request.aread():
            request.extensions["trace"] = leave
        return await super().handle_async_request(request)


async def call_and_leave(base: str, after_s: float) -> None:
    async with httpx2.AsyncClient(transport=LeavingTransport(after_s), timeout=30) as http:
        wire = streamable_http_client(f"{base}/run/v1/mcp", http_client=http, terminate_on_close=False)
        async with Client(wire, mode="legacy") as client:
            await client.call_tool(TOOL, {"query": "count 3"})


@pytest.mark.feature("F81", "F98")
@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.002, 0.004])
async def test_a_call_whose_client_leaves_at_once_is_carried_out(
    base: str, system: LocalSystem, after_s: float
) -> None:
    """Up to 2025-11-25 a disconnect is no cancellation, however early it comes."""
    with pytest.raises(BaseExceptionGroup):  # the SDK's client ends with its connection
        await call_and_leave(base, after_s)
    await wait_until(lambda: stands(system, State.COMPLETED), "the run's end", 4.0)


async def test_ending_a_session_interrupts_its_run(base: str, system: LocalSystem) -> None:
    session = await opened(system, base)
    async with asyncio.TaskGroup() as group:
        group.create_task(query(system, base, "sleep 60", 2, session))
        await wait_until(lambda: stands(system, State.RUNNING), "the run's start")
        async with system.http.delete(f"{base}/v1/mcp", headers=session) as response:
            assert response.status == 204
        await wait_until(lambda: stands(system, State.CANCELLED), "the run's end")


async def test_a_gateway_that_stops_leaves_the_run_alone(base: str, system: LocalSystem) -> None:
    service = system.apps[0][SERVICE]
    async with asyncio.TaskGroup() as group:
        call = group.create_task(unanswered(system, base, "count 20 every 100 ms"))
        await wait_until(lambda: stands(system, State.RUNNING), "the run's start")
        service.stopping.set()
        for transport in tuple(service.streams):
            transport.abort()
        assert await call
        await wait_until(lambda: stands(system, State.COMPLETED), "the run's end")


async def unanswered(system: LocalSystem, base: str, text: str) -> bool:
    try:
        await query_alone(system, base, text)
    except aiohttp.ClientError:
        return True
    return False


async def test_the_session_of_another_user_is_not_found(system: LocalSystem) -> None:
    await system.runner()
    base = await system.gateway(allow_anonymous=False, jwt_key=SIGNING, jwt_algorithms="HS256")
    ann, ben = ({"Authorization": f"Bearer {token(one)}"} for one in ("ann", "ben"))
    answer = await say(system, base, "initialize", CLIENT, ann)
    session = {"Mcp-Session-Id": answer.headers["mcp-session-id"]}
    assert (await say(system, base, "tools/list", {}, session)).status == 401
    assert (await say(system, base, "tools/list", {}, session | ben)).status == 404
    assert (await say(system, base, "tools/list", {}, session | ann)).status == 200
    async with connected(base, **ann) as client:
        assert text_of(await client.call_tool(TOOL, {"query": "count 2"})) == "1 2"


async def test_an_agent_that_is_not_there_opens_no_session(base: str, system: LocalSystem) -> None:
    answer = await say(system, base, "initialize", CLIENT, {"x-agent-id": "nobody"})
    assert answer.status == 404
    assert "mcp-session-id" not in answer.headers
    answer = await say(system, base, "initialize", {"protocolVersion": 7})
    assert "mcp-session-id" not in answer.headers


async def test_a_page_of_another_origin_may_not_call_the_endpoint(base: str, system: LocalSystem) -> None:
    for origin, status in (
        ("http://evil.example", 403),
        ("null", 403),
        ("http://localhost:3000", 200),
        (base, 200),
    ):
        answer = await say(system, base, "initialize", CLIENT, {"Origin": origin})
        assert answer.status == status, origin
    rebound = {"Origin": "http://localhost:3000", "Host": "evil.example"}
    assert (await say(system, base, "initialize", CLIENT, rebound)).status == 403
