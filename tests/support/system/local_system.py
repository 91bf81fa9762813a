"""A whole installation in one process: real gateways on real ports, real runners, on the real servers.

Everything ends with the test. Tests that kill processes use `tests/support/system/processes.py`.
"""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec
from aiohttp import web

from rejoin.dev.generous_limits import GENEROUS_LIMITS, GENEROUS_RATES
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.process.background import run_alongside
from rejoin_gateway import app as gateway_app
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_gateway.listener.bounded_site import BoundedSite
from rejoin_gateway.listener.connections import ConnectionLimits, Connections
from rejoin_gateway.settings import GatewaySettings
from rejoin_protocol.log import sse
from rejoin_protocol.log.sse import SseFrame
from rejoin_runner import app as runner_app
from rejoin_runner.agent.agent import Agent
from rejoin_runner.demo import build_demo_agent
from rejoin_runner.settings import RunnerSettings
from rejoin_runner.worker.configuration import WorkerSignals
from rejoin_runner.worker.worker import Worker

DONE = b"[DONE]"
SHARED_LOOP_LAG_S_MAX = 60.0
"""Gateways, runners and clients of a test share one event loop: its lag says nothing about any of them."""


CONNECTIONS = ConnectionLimits()


class LocalSystem:
    """Starts gateways and runners, and sends requests to them as a client would."""

    def __init__(self, nats_url: str, database_url: str) -> None:
        self.nats_url = nats_url
        self.database_url = database_url
        self.agent = f"demo-{secrets.token_hex(4)}"
        self._stack = AsyncExitStack()
        self._ids = itertools.count(1)
        self.apps: list[web.Application] = []

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        self.http = await self._stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=60)
            )
        )
        self._tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def gateway(
        self, *, nats_url: str | None = None, connections: ConnectionLimits = CONNECTIONS, **settings: Any
    ) -> str:
        """Start a gateway. Returns its base URL."""
        wanted: dict[str, Any] = {
            "allow_anonymous": True,
            "default_agent": self.agent,
            "agent_cache_ttl_s": 0,
        }
        wanted |= {**GENEROUS_LIMITS, **GENEROUS_RATES, **settings}  # the tests are one tenant
        found = GatewaySettings(nats_url=nats_url or self.nats_url, database_url=self.database_url, **wanted)
        app = await self._stack.enter_async_context(gateway_app.open_application(found))
        return await self.serve(app, connections)

    async def serve(self, app: web.Application, connections: ConnectionLimits = CONNECTIONS) -> str:
        """Serve a gateway's application on a free port; its base URL."""
        self.apps.append(app)
        app[SERVICE].backend.metrics.overload.lag_s_max = SHARED_LOOP_LAG_S_MAX
        server = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1, auto_decompress=False
        )
        await server.setup()
        self._stack.push_async_callback(server.cleanup)
        site = BoundedSite(server, "127.0.0.1", 0, Connections(connections))
        await site.start()
        await self._stack.enter_async_context(run_alongside(site.accept()))
        return site.name

    async def runner(
        self,
        agents: Sequence[Agent] | None = None,
        signals: WorkerSignals = WorkerSignals(),  # noqa: B008 - it is frozen
        **settings: Any,
    ) -> Worker:
        """Start a runner. Returns when it serves; it is drained at the test's end."""
        wanted: dict[str, Any] = {"database_url": self.database_url, "drain_grace_s": 0.1, **GENEROUS_LIMITS}
        wanted |= settings
        found = RunnerSettings(nats_url=self.nats_url, **wanted)
        serving = agents or [msgspec.structs.replace(build_demo_agent(), name=self.agent)]
        worker = await self._stack.enter_async_context(runner_app.open_worker(found, serving, signals))
        worker.metrics.overload.lag_s_max = SHARED_LOOP_LAG_S_MAX
        await self.work(worker)
        return worker

    async def work(self, worker: Worker) -> None:
        """Run a worker until the end of the test; returns once it serves."""
        ready = asyncio.Event()
        task = self._tasks.create_task(worker.serve(ready.set))

        async def end() -> None:
            worker.drain()
            await asyncio.wait([task])

        self._stack.push_async_callback(end)
        await ready.wait()

    def variables(self, **more: str) -> dict[str, str]:
        """The environment variables of a process that uses the same servers."""
        generous = {
            f"REJOIN_{name.upper()}": str(count)
            for name, count in {**GENEROUS_LIMITS, **GENEROUS_RATES}.items()
        }
        return {
            "REJOIN_NATS_URL": self.nats_url,
            "REJOIN_DATABASE_URL": self.database_url,
            **generous,
            **more,
        }

    def feeds(self, gateway: int) -> dict[str, int]:
        """For each run that a gateway follows, the number of its streams, in the order of their start."""
        runs = self.apps[gateway][SERVICE].backend.log
        assert isinstance(runs, JetStreamRunLog)
        return {run: len(feed.readers) for run, feed in runs._feeds._feeds.items()}

    # -------------------------------------------------------------------------------- as a client

    def fresh(self, word: str) -> str:
        """An id that no other test has."""
        return f"{word}-{self.agent}-{next(self._ids)}"

    def chat(self, session: str, text: str, **extra: Any) -> dict[str, Any]:
        """The body that `useChat` posts for a new message."""
        message = {"id": self.fresh("u"), "role": "user", "parts": [{"type": "text", "text": text}]}
        return {"id": session, "messages": [message], "trigger": "submit-message", **extra}

    async def decision(self, base: str, session: str, *, approved: bool) -> dict[str, Any]:
        """The body that `useChat` posts after a person has decided every pending approval of the last
        message.
        """
        messages = (await self.get(f"{base}/api/agents/{self.agent}/{session}")).json["messages"]
        for part in messages[-1]["parts"]:
            if part.get("state") == "approval-requested":
                part["state"] = "approval-responded"
                part["approval"]["approved"] = approved
        return {
            "id": session,
            "messages": messages,
            "trigger": "submit-message",
            "messageId": messages[-1]["id"],
        }

    async def post(self, base: str, body: Any) -> "Answer":
        """POST /api/chat and read the whole response."""
        async with self.http.post(f"{base}/api/chat", json=body) as response:
            return await Answer.of(response)

    async def get(self, url: str, **headers: str) -> "Answer":
        """GET and read the whole response."""
        async with self.http.get(url, headers=headers) as response:
            return await Answer.of(response)


class Answer(msgspec.Struct):
    """A complete response."""

    status: int
    headers: dict[str, str]
    raw: bytes
    frames: list[SseFrame]

    @classmethod
    async def of(cls, response: aiohttp.ClientResponse) -> "Answer":
        """Read a response to its end."""
        raw = await response.read()
        frames = list(sse.SseParser().feed(raw)) if response.content_type == "text/event-stream" else []
        headers = {name.lower(): value for name, value in response.headers.items()}
        return cls(response.status, headers, raw, frames)

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return msgspec.json.decode(self.raw)

    @property
    def complete(self) -> bool:
        """Whether the stream ended with `[DONE]`."""
        return bool(self.frames) and self.frames[-1].data == DONE

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """The decoded events."""
        return [msgspec.json.decode(frame.data) for frame in self.frames if frame.data != DONE]

    @property
    def text(self) -> str:
        """All text deltas, joined."""
        return "".join(chunk["delta"] for chunk in self.chunks if chunk["type"] == "text-delta")


async def read_frames(
    response: aiohttp.ClientResponse, until: Callable[[SseFrame], bool] = lambda _: False
) -> AsyncIterator[SseFrame]:
    """The frames of a stream as they arrive; ends after the frame for which `until` is true."""
    reader = sse.SseParser()
    async for received in response.content.iter_any():
        for frame in reader.feed(received):
            yield frame
            if until(frame):
                return
