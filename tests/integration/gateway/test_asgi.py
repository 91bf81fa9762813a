"""The session routes as an ASGI application, driven as an ASGI server drives it."""

import asyncio
from collections.abc import AsyncIterator, MutableMapping, Sequence
from typing import Any

import msgspec
import pytest

from rejoin_adapters.process.background import run_alongside
from rejoin_adapters.store_types import Owner
from rejoin_gateway.asgi.application import BrokenResponse, SessionsApplication, asgi
from rejoin_gateway.asgi.memory_connection import OUTPUT_BYTES_MAX
from rejoin_gateway.embed import Rejoin, connect
from rejoin_gateway.settings import GatewaySettings
from rejoin_protocol.errors import Invalid, Unauthenticated
from rejoin_protocol.ids import TenantId, UserId
from rejoin_protocol.limits import BODY_BYTES_MAX
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until

type Message = MutableMapping[str, Any]


class Exchange:
    """One request with the response, as messages. `pause` holds the server's `send` back."""

    def __init__(
        self, method: str, path: str, body: Any = None, *, length: bool = True, **scope: Any
    ) -> None:
        pieces = [] if body is None else [msgspec.json.encode(body)]
        self.sent: list[Message] = []
        self.may_send = asyncio.Event()
        self.may_send.set()
        self.left = asyncio.Event()
        headers = [(b"host", b"test"), (b"content-type", b"application/json"), (b"expect", b"100-continue")]
        if length:
            headers.append((b"content-length", str(sum(map(len, pieces))).encode()))
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": headers + scope.pop("headers", []),
            "query_string": b"",
            "root_path": "",
            **scope,
        }
        self._requests = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        self._requests.append({"type": "http.request"})

    async def receive(self) -> Message:
        if self._requests:
            return self._requests.pop(0)
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.may_send.wait()
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def complete(self) -> bool:
        return bool(self.sent) and self.sent[-1].get("more_body") is False


@pytest.fixture
async def backend(system: LocalSystem) -> AsyncIterator[Rejoin]:
    await system.runner()
    async with connect(GatewaySettings(nats_url=system.nats_url, database_url=system.database_url)) as one:
        yield one


@pytest.fixture
def application(system: LocalSystem, backend: Rejoin) -> SessionsApplication:
    return asgi(backend, system.agent)


async def ask(application: SessionsApplication, exchange: Exchange) -> Exchange:
    await application(exchange.scope, exchange.receive, exchange.send)
    assert exchange.complete
    return exchange


@pytest.mark.feature("F79")
@pytest.mark.parametrize("length", [True, False])
async def test_a_request_is_answered_below_any_prefix(
    system: LocalSystem, application: SessionsApplication, length: bool
) -> None:
    """Frameworks leave the prefix in the path, or do not. A body may come without its length."""
    session = f"user: 1%2 ü? {system.fresh('s')}"
    for path, root_path in ((f"/a/b/{session}", "/a/b"), (f"/{session}", "/a/b"), (f"/{session}", "")):
        message = {"id": "m1", "parts": [{"type": "text", "text": "count 2"}]}
        asked = Exchange("POST", path, {"message": message}, length=length, root_path=root_path)
        answer = await ask(application, asked)
        assert (answer.status, answer.body.endswith(b"data: [DONE]\n\n")) == (200, True)
        assert (b"connection", b"close") not in answer.sent[0]["headers"]
    history = await ask(application, Exchange("GET", f"/{session}"))
    assert (history.json["id"], len(history.json["messages"])) == (session, 2)
    assert (await ask(application, Exchange("GET", f"/{session}/reconnect"))).status == 204
    head = await ask(application, Exchange("HEAD", f"/{session}"))
    assert (head.status, head.body) == (200, b"")
    view = Exchange("GET", f"/{session}/reconnect", query_string=b"cursor=0-0&ui=4")
    assert (await ask(application, view)).status == 400


@pytest.mark.feature("F98")
@pytest.mark.parametrize("length", [True, False])
async def test_a_request_is_carried_out_although_its_client_left_at_once(
    system: LocalSystem, application: SessionsApplication, length: bool
) -> None:
    """The server has its disconnect together with its last byte."""
    sessions = [system.fresh("s") for _ in range(10)]
    for session in sessions:
        left = Exchange("POST", f"/{session}", {"message": "count 2"}, length=length)
        left.left.set()
        await application(left.scope, left.receive, left.send)
    for session in sessions:

        async def is_answered(session: str = session) -> bool:
            history = await ask(application, Exchange("GET", f"/{session}"))
            return history.status == 200 and len(history.json["messages"]) == 2

        await wait_until(is_answered, "the answer", 5.0)


async def test_the_scope_names_the_backend_and_the_owner(system: LocalSystem, backend: Rejoin) -> None:
    async def owner(scope: Any) -> Owner:
        if "user" not in scope:
            raise Unauthenticated("who are you?")
        return Owner(TenantId("default"), UserId(scope["user"]))

    application = asgi(lambda scope: scope["state"]["backend"], system.agent, owner=owner)
    path, state = f"/{system.fresh('s')}", {"backend": backend}
    for user, status in ((None, 401), ("ann", 200), ("bob", 404)):
        known: dict[str, Any] = {} if user is None else {"user": user}
        kind = "POST" if user == "ann" else "GET"
        asked = Exchange(kind, path, "count 1" if user == "ann" else None, state=state, **known)
        assert (await ask(application, asked)).status == status
    with pytest.raises(Invalid):
        asgi(backend, "no such name")


async def test_a_client_that_leaves_stops_its_stream_and_not_the_run(
    system: LocalSystem, backend: Rejoin, application: SessionsApplication
) -> None:
    session = system.fresh("s")
    asked = Exchange("POST", f"/{session}", "count 30 every 20 ms")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(application(asked.scope, asked.receive, asked.send))
        await wait_until(lambda: b"text-delta" in asked.body, "the first text")
        asked.left.set()
        await asyncio.wait_for(task, 1)
    assert not asked.complete
    chat = backend.agent(system.agent).session(session)
    stream = await chat.stream()
    assert stream is not None
    assert [piece async for piece in stream][-1].endswith(b"data: [DONE]\n\n")


async def test_a_stream_that_breaks_is_an_error_of_the_application(
    system: LocalSystem, backend: Rejoin, application: SessionsApplication
) -> None:
    """The server then breaks the connection; with a clean end the client would take the answer as whole."""
    asked = Exchange("POST", f"/{system.fresh('s')}", "count 1000 every 20 ms")

    async def stop() -> None:
        await wait_until(lambda: b"text-delta" in asked.body, "the first text")
        backend.service.stop()

    with pytest.raises(BrokenResponse):
        async with run_alongside(stop()):
            await application(asked.scope, asked.receive, asked.send)
    assert not asked.complete


async def test_a_client_that_reads_slowly_holds_the_stream_back(
    system: LocalSystem, application: SessionsApplication
) -> None:
    session = system.fresh("s")
    await ask(application, Exchange("POST", f"/{session}", ["x" * 400_000, "count 1"]))
    asked = Exchange("GET", f"/{session}")
    asked.may_send.clear()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(application(asked.scope, asked.receive, asked.send))
        await asyncio.sleep(0.3)
        assert not task.done()
        asked.may_send.set()
    assert len(asked.body) > 6 * OUTPUT_BYTES_MAX


async def test_a_body_that_is_too_large_is_refused(
    system: LocalSystem, application: SessionsApplication
) -> None:
    headers: Sequence[tuple[bytes, bytes]] = [(b"content-length", str(BODY_BYTES_MAX + 1).encode())]
    asked = Exchange("POST", f"/{system.fresh('s')}", "count 1", length=False, headers=list(headers))
    assert (await ask(application, asked)).status == 413


async def test_a_server_starts_and_stops_it_alone_and_gets_no_web_socket(backend: Rejoin) -> None:
    application = asgi(backend, "demo")
    events = iter(
        [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}, {"type": "websocket.connect"}]
    )
    sent: list[Message] = []

    async def receive() -> Message:
        return next(events)

    async def send(message: Any) -> None:
        sent.append(message)

    await application({"type": "lifespan"}, receive, send)
    await application({"type": "websocket"}, receive, send)
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
        "websocket.close",
    ]
