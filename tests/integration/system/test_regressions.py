"""Faults that once were in the product. Each test repeats the order of events that showed one."""

import asyncio

import msgspec
import pytest
from yarl import URL

from rejoin_adapters.jetstream.run_control import NatsRunControl
from rejoin_protocol.ids import RunId
from rejoin_runner.demo import build_demo_agent
from tests.support.system.local_system import Answer, LocalSystem, read_frames
from tests.support.system.observation import expire_log


@pytest.mark.feature("F74")
async def test_an_interrupt_that_did_not_reach_its_runner_reaches_it_later(
    system: LocalSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interrupt is lost on its way; the runner learns of it when it next reads the database."""

    async def lose(self: NatsRunControl, run: RunId) -> bool:
        del self, run
        return False

    monkeypatch.setattr(NatsRunControl, "interrupt", lose)
    await system.runner(sweep_interval_s=0.05)
    base, session = await system.gateway(), system.fresh("s")
    chat = system.chat(session, "count 100000 every 20 ms")
    async with system.http.post(f"{base}/api/chat", json=chat) as response:
        async for _ in read_frames(response, lambda frame: b"text-start" in frame.data):
            pass
        async with system.http.post(f"{base}/api/chat/{session}/stop") as stopped:
            assert (await Answer.of(stopped)).json["interrupted"]
        rest = [frame async for frame in read_frames(response)]
    assert any(b'"abort"' in frame.data for frame in rest)


@pytest.mark.parametrize("query", ["startIndex=0", "startIndex=-1", "cursor={cursor}"])
async def test_every_position_in_an_expired_log_is_refused_with_410(system: LocalSystem, query: str) -> None:
    """Of a run that has ended, and of one that waits for an approval."""
    await system.runner()
    base = await system.gateway()
    for text in ("count 2", "delete notes.txt"):
        session = system.fresh("s")
        answer = await system.post(base, system.chat(session, text))
        await expire_log(system.nats_url, RunId(answer.headers["x-workflow-run-id"]), 0)
        position = query.format(cursor=answer.frames[1].id)
        refused = await system.get(f"{base}/api/chat/{session}/stream?{position}")
        assert refused.status == 410, text


async def test_the_routes_of_one_agent_do_not_reach_the_session_of_another(system: LocalSystem) -> None:
    other = f"{system.agent}-b"
    await system.runner(
        [msgspec.structs.replace(build_demo_agent(), name=name) for name in (system.agent, other)]
    )
    base, session = await system.gateway(), system.fresh("s")
    await system.post(base, system.chat(session, "count 2"))
    url = f"{base}/api/agents/{other}/{session}"
    for method, path in (("POST", ""), ("POST", "/interrupt"), ("GET", "/reconnect"), ("GET", "")):
        async with system.http.request(method, url + path, json="hi") as response:
            assert response.status == 404, path
    assert len((await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]) == 2


async def test_a_head_request_of_a_stream_starts_nothing(system: LocalSystem) -> None:
    base = await system.gateway()
    async with system.http.head(f"{base}/api/chat/{system.fresh('s')}/stream") as response:
        assert response.status == 204


@pytest.mark.parametrize("body", [b'[{"type": []}]', b"[" * 100_000, b'{"message": {"parts": [[]]}}'])
async def test_a_malformed_body_is_refused_with_400(system: LocalSystem, body: bytes) -> None:
    base = await system.gateway()
    url = f"{base}/api/agents/{system.agent}/{system.fresh('s')}"
    async with system.http.post(url, data=body, headers={"content-type": "application/json"}) as response:
        assert response.status == 400


@pytest.mark.parametrize("headers", [{"Idempotency-Key": "x" * 7_000}, {"Content-Encoding": "gzip"}])
async def test_an_invalid_header_is_refused_with_400(system: LocalSystem, headers: dict[str, str]) -> None:
    await system.runner()
    base = await system.gateway()
    body = msgspec.json.encode(system.chat(system.fresh("s"), "count 1"))
    headers = {"content-type": "application/json"} | headers
    async with system.http.post(
        f"{base}/api/chat", data=body, headers=headers, skip_auto_headers=("Content-Encoding",)
    ) as response:
        assert response.status == 400


@pytest.mark.parametrize("path", ["/api/auth/login", "/v1/mcp", "/run/v1/events"])
async def test_a_body_that_cannot_be_decompressed_is_refused_with_400(system: LocalSystem, path: str) -> None:
    base = await system.gateway()
    headers = {"content-type": "application/json", "Content-Encoding": "gzip"}
    body = b'{"password": "plain, not compressed"}'
    async with system.http.post(base + path, data=body, headers=headers) as response:
        assert response.status == 400


async def test_a_header_that_is_not_utf_8_is_refused_by_the_route_that_stores_it(system: LocalSystem) -> None:
    """aiohttp reads such a byte as half a surrogate pair, which PostgreSQL cannot store."""
    url = URL(await system.gateway())
    body = b'{"type": "shown"}'
    head = f"POST /run/v1/events HTTP/1.1\r\nHost: {url.authority}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nx-agent-id: \x84\r\n\r\n"
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        writer.write(head.encode("latin-1") + body)
        assert b" 404 " in await reader.readline()
    finally:
        writer.close()
        await writer.wait_closed()
