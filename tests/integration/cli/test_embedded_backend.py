"""The backend inside an application's own process: calls, and mounted routes."""

from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from rejoin_adapters.store_types import Owner
from rejoin_gateway.embed import (
    ApprovalInput,
    ChatSession,
    Override,
    Rejoin,
    RouteName,
    connect,
    error_response,
    load_settings,
    routes,
)
from rejoin_gateway.http.routes import Handler
from rejoin_gateway.library_stream import Stream
from rejoin_gateway.settings import GatewaySettings
from rejoin_protocol.errors import Conflict, Fenced, Invalid, NotFound, Unauthenticated, Unavailable
from rejoin_protocol.events import chunks
from rejoin_protocol.ids import TenantId, UserId
from rejoin_protocol.log import sse
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.demo_model import DemoModel
from tests.support.system.local_system import DONE, Answer, LocalSystem

KEYS = f"k1:{b64encode(b'1' * 32).decode()}"
SOMEBODY = Owner(TenantId("default"), UserId("somebody"))


class Trip(msgspec.Struct):
    """The context of the agent's tools."""

    destination: str


@pytest.fixture
async def rejoin(system: LocalSystem) -> AsyncIterator[Rejoin]:
    await system.runner()
    async with connect(GatewaySettings(nats_url=system.nats_url, database_url=system.database_url)) as one:
        yield one


@pytest.fixture
def session(system: LocalSystem, rejoin: Rejoin) -> ChatSession:
    return rejoin.agent(system.agent).session(system.fresh("s"))


async def read(stream: Stream | None) -> list[dict[str, object]]:
    """The events, which must end with `[DONE]`."""
    assert stream is not None
    reader = sse.SseParser()
    frames = [frame async for written in stream for frame in reader.feed(written)]
    assert frames[-1].data == DONE
    return [msgspec.json.decode(frame.data) for frame in frames[:-1]]


async def test_a_conversation_is_a_few_calls(session: ChatSession) -> None:
    stream = await session.send("count 3")
    assert stream.headers["Content-Type"] == "text/event-stream"
    assert stream.headers["x-workflow-run-id"] == stream.run
    events = await read(stream)
    assert "".join(str(event["delta"]) for event in events if event["type"] == "text-delta") == "1 2 3"
    history = await session.history()
    assert [message["role"] for message in history.messages] == ["user", "assistant"]
    assert history.active_run is None
    assert await session.stream() is None
    assert not await session.interrupt()
    usage = await session.usage()
    assert (usage.runs, usage.output_tokens) == (1, 3)
    thread = await session.update(title="Numbers", metadata={"a": 1})
    assert (thread.title, thread.metadata) == ("Numbers", {"a": 1})
    await session.delete()
    with pytest.raises(NotFound):
        await session.history()


async def test_an_application_connects_with_the_variables_of_a_gateway(
    system: LocalSystem, tmp_path: Path
) -> None:
    """Context keys included; a secret may be in a file. What only an HTTP server needs is ignored."""
    keys = tmp_path / "keys"
    keys.write_text(KEYS)
    variables = {
        "REJOIN_NATS_URL": system.nats_url,
        "REJOIN_DATABASE_URL": system.database_url,
        "REJOIN_CONTEXT_ENCRYPTION_KEYS_FILE": str(keys),
        "REJOIN_API_KEY_PEPPER": "short",
        "HOME": "/",
    }
    agent = Agent(name=system.agent, model=DemoModel(), context=Trip)
    await system.runner([agent], context_encryption_keys=KEYS)
    async with connect(load_settings(variables)) as backend:
        session = backend.agent(system.agent).session(system.fresh("s"))
        events = await read(await session.send("count 2", context={"destination": "Rome"}))
        assert "".join(str(event["delta"]) for event in events if event["type"] == "text-delta") == "1 2"
        with pytest.raises(Invalid, match="context"):
            await session.send("count 2", context={})
    settings = GatewaySettings(nats_url=system.nats_url, database_url=system.database_url)
    async with connect(settings) as backend:
        with pytest.raises(Unavailable, match="REJOIN_CONTEXT_ENCRYPTION_KEYS"):
            await backend.agent(system.agent).session(system.fresh("s")).send("count 2", context={})
    with pytest.raises(Invalid, match="REJOIN_DATABASE_URL"):
        load_settings({"REJOIN_NATS_URL": system.nats_url})


def test_an_error_becomes_the_response_of_a_gateway() -> None:
    response = error_response(Unauthenticated("send a ticket"))
    assert response.status == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.headers["Content-Type"] == "application/problem+json"
    assert msgspec.json.decode(response.body)["detail"] == "send a ticket"
    secret = Fenced("run_1 belongs to runner-7")
    with pytest.raises(Fenced):
        error_response(secret)


async def test_a_message_is_a_text_parts_or_a_whole_one_and_once(session: ChatSession) -> None:
    parts = [{"type": "text", "text": "count 1"}]
    first = await session.send({"id": "m1", "parts": parts})
    assert (await session.send({"id": "m1", "role": "user", "parts": parts})).run == first.run
    with pytest.raises(Conflict):
        await session.send({"id": "m1", "parts": [{"type": "text", "text": "count 2"}]})
    second = await session.send(parts, key="k")
    assert (await session.send("count 1", key="k")).run == second.run != first.run
    await read(second)
    assert len((await session.history()).messages) == 4
    third = await session.send(["count 1", {"message": {"id": "m2", "parts": parts}}])
    await read(third)
    messages = (await session.history()).messages
    assert (messages[4]["id"], len(messages[4]["parts"]), len(messages)) == ("m2", 2, 6)
    invalid: list[Any] = [[], {"parts": []}, {"role": "assistant", "parts": parts}]
    for nothing in invalid:
        with pytest.raises(Invalid):
            await session.send(nothing)


async def test_a_decision_and_a_cursor_continue_the_answer(session: ChatSession) -> None:
    events = await read(await session.send("delete notes.txt"))
    [approval] = [str(event["approvalId"]) for event in events if "approvalId" in event]
    rest = await read(await session.approve(approval, approved=True, reason="fine"))
    assert "tool-output-available" in [event["type"] for event in rest]
    reader, cursor = sse.SseParser(), ""
    async for written in await session.send("count 20"):
        frames = list(reader.feed(written))
        cursor = cursor or next((frame.id for frame in frames if b"text-delta" in frame.data), "")
    behind = await read(await session.stream(cursor))
    assert next(event["delta"] for event in behind if event["type"] == "text-delta") == " 2"


@pytest.mark.feature("F52", "F59")
async def test_a_decision_is_sent_like_a_message(session: ChatSession) -> None:
    """As the session API takes it; one or several at once."""
    for approved, kind in ((True, "tool-output-available"), (False, "tool-output-denied")):
        events = await read(await session.send("delete notes.txt"))
        [approval] = [str(event["approvalId"]) for event in events if "approvalId" in event]
        decision: ApprovalInput = {
            "type": "approval",
            "approval": {"approvalId": approval, "approved": approved, "reason": "because"},
        }
        rest = await read(await session.send([decision, decision] if approved else decision))
        assert kind in [event["type"] for event in rest]
        contrary: ApprovalInput = {
            "type": "approval",
            "approval": {"approvalId": approval, "approved": not approved},
        }
        with pytest.raises(Conflict):
            await session.send(contrary)


@pytest.mark.feature("F79")
async def test_an_answer_is_a_stream_of_typed_chunks(session: ChatSession) -> None:
    """And its newest cursor resumes it, as bytes or as chunks."""
    stream = await session.send("count 3")
    first = []
    async with aclosing(stream.chunks()) as events:
        async for chunk in events:
            first.append(chunk)
            if isinstance(chunk, chunks.TextDelta):
                break
    assert isinstance(first[0], chunks.Start)
    rest_stream = await session.stream(stream.cursor)
    assert rest_stream is not None
    rest = [chunk async for chunk in rest_stream.chunks()]
    assert isinstance(rest[-1], chunks.Finish)
    whole = await session.send("count 3", key="again")
    expected = [type(chunk) async for chunk in whole.chunks()]
    assert [type(chunk) for chunk in [*first, *rest]] == expected
    texts = [chunk.delta for chunk in [*first, *rest] if isinstance(chunk, chunks.TextDelta)]
    assert "".join(texts) == "1 2 3"


async def test_a_run_continues_after_its_reader_has_left(session: ChatSession) -> None:
    stream = await session.send("count 30 every 10 ms")
    async for _ in stream:
        break
    events = await read(await session.stream())
    assert events[-1]["type"] == "finish"
    assert len((await session.history()).messages) == 2


async def test_a_session_is_its_owners_and_its_agents(
    system: LocalSystem, rejoin: Rejoin, session: ChatSession
) -> None:
    await read(await session.send("count 1"))
    id = session.session.id
    stranger = rejoin.agent(system.agent, SOMEBODY).session(id)
    other = rejoin.agent("other").session(id)
    for wrong in (stranger, other):
        for call in (wrong.history, wrong.usage, wrong.update, wrong.delete):
            with pytest.raises(NotFound):
                await call()
    with pytest.raises(NotFound):
        await other.interrupt()
    with pytest.raises(Invalid):
        rejoin.agent("no such name").session(id)
    with pytest.raises(Invalid):
        rejoin.agent(system.agent).session("no/such/id")


# --------------------------------------------------------------------------------------------- mounted routes


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    async with AsyncExitStack() as stack:
        server = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await server.setup()
        stack.push_async_callback(server.cleanup)
        await web.TCPSite(server, "127.0.0.1", 0).start()
        host, port = server.addresses[0][:2]
        yield f"http://{host}:{port}"


@pytest.mark.feature("F79")
async def test_an_agent_is_mounted_as_exactly_four_routes(system: LocalSystem, rejoin: Rejoin) -> None:
    """History, send, reconnect and interrupt, wherever the application wants them."""
    mounted = routes(rejoin, system.agent)
    assert sorted(
        (route.method, route.resource.canonical)
        for route in mounted.router.routes()
        if route.resource and route.method != "HEAD" and not route.resource.canonical.endswith("/")
    ) == [
        ("GET", "/{session}"),
        ("GET", "/{session}/reconnect"),
        ("POST", "/{session}"),
        ("POST", "/{session}/interrupt"),
    ]
    app = web.Application()
    app.add_subapp("/help/desk", mounted)
    async with serving(app) as base:
        url = f"{base}/help/desk/{system.fresh('s')}"
        async with system.http.post(url, json={"message": "count 3"}) as response:
            answer = await Answer.of(response)
        assert (answer.status, answer.text, answer.complete) == (200, "1 2 3", True)
        assert len((await system.get(url)).json["messages"]) == 2
        assert (await system.get(f"{url}/reconnect")).status == 204
        async with system.http.post(f"{url}/interrupt", json={}) as response:
            assert await response.json() == {"success": True, "interrupted": False}
        refused = await system.get(f"{base}/help/desk/{system.fresh('s')}")
        assert (refused.status, refused.json["code"]) == (404, "not_found")
        async with system.http.delete(url) as response:
            assert response.status == 405


@pytest.mark.feature("F79")
@pytest.mark.parametrize("names", [("send", "history"), ("session.post", "session.get")])
async def test_an_override_refuses_with_401(
    system: LocalSystem, rejoin: Rejoin, names: tuple[RouteName, RouteName]
) -> None:
    """By a response or by an error; nothing has happened then. Or it hands the request on."""

    async def closed(request: web.Request, proceed: Handler) -> web.StreamResponse:
        if request.headers.get("x-door") != "open":
            return web.json_response({"error": "not you"}, status=401)
        return await proceed(request)

    async def raising(_: web.Request, __: Handler) -> web.StreamResponse:
        raise Unauthenticated("show a ticket")

    app = web.Application()
    overrides: Mapping[RouteName, Override] = dict(zip(names, (closed, raising), strict=True))
    app.add_subapp("/a", routes(rejoin, system.agent, overrides=overrides))
    session = system.fresh("s")
    async with serving(app) as base:
        url = f"{base}/a/{session}"
        async with system.http.post(url, json="count 1") as response:
            assert (response.status, await response.json()) == (401, {"error": "not you"})
        with pytest.raises(NotFound):
            await rejoin.agent(system.agent).session(session).history()
        async with system.http.post(url, json="count 1", headers={"x-door": "open"}) as response:
            assert (await Answer.of(response)).text == "1"
        refused = await system.get(url)
        assert (refused.status, refused.json["detail"]) == (401, "show a ticket")
        assert refused.headers["www-authenticate"] == "Bearer"
    with pytest.raises(Invalid, match="no route stop"):
        routes(rejoin, system.agent, overrides={"stop": raising})  # type: ignore[dict-item]
    with pytest.raises(Invalid, match="the route send has two overrides"):
        routes(rejoin, system.agent, overrides={"send": raising, "session.post": raising})


@pytest.mark.feature("F79")
async def test_every_route_is_overridden_by_both_of_its_names(system: LocalSystem, rejoin: Rejoin) -> None:
    async def refuse(_: web.Request, __: Handler) -> web.StreamResponse:
        return web.Response(status=418)

    names: tuple[tuple[RouteName, RouteName, str, str], ...] = (
        ("history", "session.get", "GET", ""),
        ("send", "session.post", "POST", ""),
        ("reconnect", "session.reconnect", "GET", "/reconnect"),
        ("interrupt", "session.interrupt", "POST", "/interrupt"),
    )
    app = web.Application()
    for own, other, _, _ in names:
        app.add_subapp(f"/{own}", routes(rejoin, system.agent, overrides={own: refuse}))
        app.add_subapp(f"/{other}", routes(rejoin, system.agent, overrides={other: refuse}))
    async with serving(app) as base:
        for own, other, method, path in names:
            for name in (own, other):
                async with system.http.request(method, f"{base}/{name}/s{path}", json={}) as response:
                    assert response.status == 418, name


async def test_the_application_names_the_owner(system: LocalSystem, rejoin: Rejoin) -> None:
    def owner(request: web.Request) -> Owner:
        user = request.headers.get("x-user")
        if user is None:
            raise Unauthenticated("who are you?")
        return Owner(TenantId("default"), UserId(user))

    app = web.Application()
    app.add_subapp("/a", routes(rejoin, system.agent, owner=owner))
    async with serving(app) as base:
        url = f"{base}/a/{system.fresh('s')}"
        async with system.http.post(url, json="count 1", headers={"x-user": "ann"}) as response:
            assert (await Answer.of(response)).text == "1"
        assert (await system.get(url, **{"x-user": "ann"})).status == 200
        assert (await system.get(url, **{"x-user": "bob"})).status == 404
        assert (await system.get(url)).status == 401


async def test_an_agent_that_is_mounted_has_its_own_sessions_only(
    system: LocalSystem, rejoin: Rejoin
) -> None:
    session = system.fresh("s")
    await read(await rejoin.agent(system.agent).session(session).send("count 1"))
    app = web.Application()
    app.add_subapp("/other", routes(rejoin, "other"))
    async with serving(app) as base:
        url = f"{base}/other/{session}"
        assert (await system.get(url)).status == 404
        assert (await system.get(f"{url}/reconnect")).status == 404
        async with system.http.post(f"{url}/interrupt", json={}) as response:
            assert response.status == 404


async def test_an_application_that_stops_breaks_its_streams(system: LocalSystem, rejoin: Rejoin) -> None:
    """A clean end would be read as a whole answer."""
    app = web.Application()
    app.add_subapp("/a", routes(rejoin, system.agent))
    async with AsyncExitStack() as stack:
        base = await stack.enter_async_context(serving(app))
        async with system.http.post(
            f"{base}/a/{system.fresh('s')}", json="count 1000 every 20 ms"
        ) as response:
            await response.content.readany()
            await stack.aclose()
            with pytest.raises(aiohttp.ClientError):
                await response.read()
