"""The HTTP transport to providers sends, receives and fails as httpx2's own connections do."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from aiohttp import web

from rejoin_protocol.log.model_call import ReceivedAnswer, SentRequest
from rejoin_runner.models.call_recording import OnAnswer, recording
from rejoin_runner.models.providers.http_transport import AiohttpTransport
from rejoin_runner.models.providers.provider import ProviderConnections

SOON_S = 20.0
URL = "/v1/a%2Fb/ü?q=1%2B1&empty="

type Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    """A server's address."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def wired() -> AsyncIterator[httpx2.AsyncClient]:
    async with asyncio.timeout(SOON_S), httpx2.AsyncClient(transport=AiohttpTransport(10)) as client:
        yield client


@pytest.mark.parametrize("content", [b"", b'{"x": 1}', b"\0" * 100_000])
async def test_a_request_and_its_answer_are_the_same(wired: httpx2.AsyncClient, content: bytes) -> None:
    """Where it goes, every header, the body; and back: the status, every header, the decoded body."""
    asked: list[Any] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((request.method, request.raw_path, request.headers.items(), await request.read()))
        headers = {"content-encoding": "gzip", "x-two": "ö", "date": "now", "server": "s"}
        return web.Response(status=418, body=gzip.compress(b"teapot", mtime=0), headers=headers)

    seen = []
    async with serving(answer) as address, httpx2.AsyncClient() as plain:
        for client in (plain, wired):
            headers = {"authorization": "Bearer k", "x-a": "1", "content-type": "application/json"}
            got = await client.post(address + URL, content=content, headers=headers)
            seen.append((got.status_code, got.headers.multi_items(), got.content))
        first, second = ([*one[:2], sorted(one[2]), one[3]] for one in asked)
    assert first == second
    assert seen[0] == seen[1]
    assert seen[0][2] == b"teapot"


async def test_redirects_are_left_to_the_client_and_cookies_are_dropped(wired: httpx2.AsyncClient) -> None:
    """The next request may belong to another user."""
    cookies: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("cookie"))
        response = web.Response(status=302, headers={"location": "/other"})
        response.set_cookie("who", "me")
        return response

    async with serving(answer) as address:
        for _ in range(2):
            assert (await wired.post(address)).status_code == 302
            wired.cookies.clear()
    assert cookies == [None, None]


async def test_a_response_read_to_its_end_returns_its_connection(wired: httpx2.AsyncClient) -> None:
    """A response that is left in the middle closes its connection."""
    ports: list[int] = []
    gone = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        ports.append(request.transport.get_extra_info("peername")[1])
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one")
        if request.path == "/stall":
            try:
                await asyncio.Event().wait()
            finally:
                gone.set()
        return response

    async with serving(answer) as address:
        for _ in range(2):
            assert (await wired.get(address)).content == b"one"
        async with wired.stream("GET", f"{address}/stall") as response:
            assert await anext(response.aiter_bytes()) == b"one"
        await gone.wait()
        assert (await wired.get(address)).content == b"one"
    assert ports[0] == ports[1] == ports[2] != ports[3]


async def test_failures_have_httpx2_s_names() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "100"})
        if request.path != "/silent":
            await response.prepare(request)
            await response.write(b"one")
        if request.path == "/cut":
            assert request.transport is not None
            request.transport.close()
        else:
            await asyncio.Event().wait()
        return response

    async with (
        serving(answer) as address,
        httpx2.AsyncClient(transport=AiohttpTransport(10), timeout=0.2) as client,
    ):
        for path, name in (
            ("/silent", httpx2.ReadTimeout),
            ("/stall", httpx2.ReadTimeout),
            ("/cut", httpx2.ReadError),
        ):
            with pytest.raises(name):
                await client.get(address + path)
        for elsewhere in ("http://127.0.0.1:1", "http://nowhere.invalid"):
            with pytest.raises(httpx2.ConnectError):
                await client.get(elsewhere)


async def test_a_request_that_is_cancelled_before_its_answer_is_recorded(wired: httpx2.AsyncClient) -> None:
    """An interrupt while the model thinks."""
    asked, sent, received = asyncio.Event(), list[SentRequest](), list[ReceivedAnswer]()

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        asked.set()
        await asyncio.Event().wait()
        return web.Response()

    def on_request(request: SentRequest) -> OnAnswer:
        sent.append(request)
        return received.append

    async with serving(answer) as address:
        with recording(on_request):
            asking = asyncio.create_task(wired.post(f"{address}/v1?key=secret", content=b"question"))
        await asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    [request], [came] = sent, received
    assert (request.url, request.text) == (f"{address}/v1", "question")
    assert (came.status, came.text) == (None, "")


async def test_behind_a_proxy_the_connections_are_httpx2_s(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def proxy(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        return web.Response(text="by proxy")

    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with serving(proxy) as address, ProviderConnections() as connections:
        monkeypatch.setenv("http_proxy", address)
        assert (await connections.open().get("http://nowhere.invalid/x")).text == "by proxy"
    assert asked == ["http://nowhere.invalid/x"]
