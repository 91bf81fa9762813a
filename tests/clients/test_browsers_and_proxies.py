"""A browser's EventSource stops at the end of an answer; a proxy that compresses passes events on at once."""

import asyncio
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.support.browser.node import install_packages
from tests.support.clients.api_families import RUN, ApiClient
from tests.support.system.local_system import LocalSystem, read_frames

HERE = Path(__file__).parent / "proxies"
DEADLINE_S = 30.0
DONE = "[DONE]"
GZIP = {"Accept-Encoding": "gzip"}
RESUME = (
    "/api/chat/{session}/stream",
    "/api/agents/{agent}/{session}/reconnect",
    "/api/agents/{agent}/{session}/{run}/stream",
    "/run/api/chat/{session}/stream",
    "/run/v1/conversations/{session}/stream",
    "/run/api/executions/{run}/stream",
)
"""All routes that resume a stream, but for OpenAI's, whose events have no ids."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
async def node() -> str:
    return await install_packages(HERE)


@asynccontextmanager
async def started(node: str, script: str, argument: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(node, str(HERE / script), argument, stdout=PIPE)
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


async def next_line(process: Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        return (await process.stdout.readline()).decode().strip()


async def test_an_event_source_stops_behind_the_last_event(system: LocalSystem, node: str) -> None:
    """On every route, the client reads the events, reconnects, and gets 204. The position in its URL is older
    than the one in its header.
    """
    await system.runner()
    client = ApiClient(system, await system.gateway())

    async def follow(route: str) -> list[str]:
        session = client.session()
        url = f"{client.base}{RUN.path}"
        async with system.http.post(url, json=RUN.body(session, "count 20 every 20 ms", None)) as response:
            run = response.headers["x-workflow-run-id"]
            at = client.base + route.format(agent=system.agent, session=session, run=run) + "?startIndex=0"
            async with started(node, "event_source.mjs", at) as source:
                lines = [await next_line(source)]
                while not lines[-1].startswith("closed"):
                    lines.append(await next_line(source))
        return lines

    for lines in await asyncio.gather(*map(follow, RESUME)):
        assert lines[-3:] == [DONE, "reconnects", "closed 204"]
        assert sum("text-delta" in line for line in lines) == 20


async def test_a_proxy_that_compresses_passes_events_on_as_they_come(system: LocalSystem, node: str) -> None:
    """Each event arrives before the model makes the next one. Other responses are compressed."""
    await system.runner()
    client = ApiClient(system, await system.gateway())
    async with (
        started(node, "compressing.mjs", client.base) as proxy,
        aiohttp.ClientSession(await next_line(proxy), auto_decompress=False, headers=GZIP) as http,
    ):
        session = client.session()
        body = {"message": "count 500 every 20 ms"}
        async with asyncio.timeout(DEADLINE_S), http.post(client.at(session), json=body) as response:
            assert "Content-Encoding" not in response.headers
            frames = read_frames(response, lambda frame: b"text-delta" in frame.data)
            assert [frame async for frame in frames]
            assert (await client.get(client.at(session))).json["activeRunId"]
        async with http.get(client.at(session)) as history:
            assert history.headers["Content-Encoding"] == "gzip"
        await client.post(f"/api/chat/{session}/stop")
