"""A production installation as plain processes: three clustered brokers with the production configuration,
two gateways and two runners with their own users; and clients that watch long answers there.
"""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from time import monotonic

import aiohttp
import msgspec

from rejoin_adapters.jetstream import nats_connection
from rejoin_protocol.log.record import View
from tests.support.clients.reconnecting_client import DONE, END, cursor_of, split_frames
from tests.support.system.nats_cluster import Cluster, Node, cluster
from tests.support.system.observation import client_bytes, read_log, wait_until
from tests.support.system.processes import HOST, Command, free_ports

RUNS = 12
COUNT = 250
EVERY_MS = 40
SILENCE_S_MAX = 25.0
"""A new leader takes four to eight seconds; a machine that is busy with other things, twice that and more."""


class Service:
    """A gateway or a runner that can be stopped and started again."""

    def __init__(self, name: str, place: Path, variables: Mapping[str, str], url: str = "") -> None:
        self.name = name
        self.url = url
        self._place = place
        self.variables = dict(variables)
        self._starts = itertools.count(1)
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        logs = self._place / f"{self.name}-{next(self._starts)}"
        kind = self.name.partition("-")[0]
        options = () if self.url else ("--demo",)
        self.command = await Command.start(logs, kind, *options, variables=self.variables)
        self._stack.push_async_exit(self.command)
        await self.command.says('"listening"' if self.url else '"serving"')

    async def stop(self) -> None:
        """In good order."""
        self.command.signal(15)
        assert await self.command.end() == 0, self.command.err

    async def kill(self) -> None:
        """By SIGKILL."""
        self.command.signal(9)
        await self.command.end()

    async def close(self) -> None:
        await self._stack.aclose()


class Fleet(msgspec.Struct, frozen=True):
    """What runs. `admin`: the variables of the administrator's commands."""

    place: Path
    brokers: Cluster
    gateways: list[Service]
    runners: list[Service]
    admin: dict[str, str]

    @property
    def urls(self) -> list[str]:
        return [gateway.url for gateway in self.gateways]

    async def leader(self, stream: str) -> Node:
        """The broker that leads a stream."""
        async with nats_connection.connect(self.brokers.url("admin"), "tests") as admin:
            answer = msgspec.json.decode(await admin.call_api(f"$JS.API.STREAM.INFO.{stream}"))
        assert answer["config"]["num_replicas"] == 3
        leader = answer["cluster"].get("leader")
        return next(node for node in self.brokers.nodes if node.options.path.name == leader)

    async def grow(self, shards: int) -> None:
        """Raise the number of shards while everything runs: streams first, then runners, then gateways."""
        more = {"REJOIN_LOG_SHARDS": str(shards)}
        await migrate(self.place / f"migrate-{shards}", self.admin | more)
        for service in (*self.runners, *self.gateways):
            service.variables.update(more)
            await service.stop()
            await service.start()


async def migrate(place: Path, variables: Mapping[str, str]) -> None:
    async with await Command.start(place, "migrate", variables=variables) as migration:
        assert await migration.end() == 0, migration.err


@asynccontextmanager
async def fleet(place: Path, database_url: str, *, shards: int = 1) -> AsyncIterator[Fleet]:
    """Start all of it. The brokers permit what three shards need, whatever the number is."""
    async with cluster(place, 3, shards=3) as brokers, AsyncExitStack() as stack:
        shared = {
            "REJOIN_DATABASE_URL": database_url,
            "REJOIN_NATS_REPLICAS": "3",
            "REJOIN_LOG_SHARDS": str(shards),
        }
        admin = shared | {"REJOIN_NATS_URL": brokers.url("admin")}
        await migrate(place / "migrate", admin)
        port = free_ports(2)
        gateways = [
            Service(
                f"gateway-{number}",
                place,
                shared
                | {
                    "REJOIN_NATS_URL": brokers.url("gateway"),
                    "REJOIN_PORT": str(port + number),
                    "REJOIN_DEFAULT_AGENT": "demo",
                    "REJOIN_ALLOW_ANONYMOUS": "true",
                },
                f"http://{HOST}:{port + number}",
            )
            for number in range(2)
        ]
        of_runners = shared | {"REJOIN_NATS_URL": brokers.url("runner"), "REJOIN_DRAIN_GRACE_S": "0.5"}
        runners = [Service(f"runner-{number}", place, of_runners) for number in range(2)]
        for service in (*gateways, *runners):
            stack.push_async_callback(service.close)
        async with asyncio.TaskGroup() as group:
            for service in (*gateways, *runners):
                group.create_task(service.start())
        yield Fleet(place, brokers, gateways, runners, admin)


class WatchingClient:
    """Sends a message and reads the answer to its end. After each cut it resumes at the next gateway."""

    def __init__(self, http: aiohttp.ClientSession, gateways: Sequence[str], number: int) -> None:
        self._http = http
        self._gateways = gateways
        self._at = number
        self.session = f"s-{secrets.token_hex(6)}"
        self.run = ""
        self.frames: list[bytes] = []
        self.times: list[float] = []
        self.cuts = 0

    @property
    def complete(self) -> bool:
        return bool(self.frames) and self.frames[-1] == DONE

    @property
    def silence_s(self) -> float:
        """The longest time without an event."""
        return max(later - earlier for earlier, later in itertools.pairwise(self.times))

    async def watch(self) -> None:
        text = f"count {COUNT} every {EVERY_MS} ms"
        message = {"id": secrets.token_hex(8), "role": "user", "parts": [{"type": "text", "text": text}]}
        body = {"id": self.session, "messages": [message], "trigger": "submit-message"}
        async with self._http.post(f"{self._gateway}/api/chat?ui=7", json=body) as response:
            assert response.status == 200, await response.text()
            self.run = response.headers["x-workflow-run-id"]
            await self._read(response)
        while not self.complete:
            self._at += 1
            self.cuts += 1
            await self._resume()

    @property
    def _gateway(self) -> str:
        return self._gateways[self._at % len(self._gateways)]

    async def _resume(self) -> None:
        headers = {"Last-Event-ID": cursor_of(self.frames[-1])} if self.frames else {}
        url = f"{self._gateway}/api/chat/{self.session}/stream?ui=7"
        with suppress(aiohttp.ClientError):  # it is not there now: the other one is
            async with self._http.get(url, headers=headers) as response:
                assert response.status in (200, 204, 503), await response.text()
                if response.status == 200:
                    await self._read(response)
                if response.status == 204:  # the run has ended with the last event
                    self.frames.append(DONE)

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        rest = b""
        with suppress(aiohttp.ClientError):
            while received := await response.content.readany():
                found = split_frames(rest + received)
                rest = (rest + received).rpartition(END)[2]
                self.frames += found
                self.times += [monotonic()] * len(found)


@asynccontextmanager
async def load(one: Fleet, runs: int = RUNS) -> AsyncIterator[list[WatchingClient]]:
    """Runs under way, each watched; at the end of the context they are over."""
    timeout = aiohttp.ClientTimeout(total=90)
    async with aiohttp.ClientSession(timeout=timeout) as http, asyncio.TaskGroup() as group:
        clients = [WatchingClient(http, one.urls, number) for number in range(runs)]
        for client in clients:
            group.create_task(client.watch())
        await wait_until(
            lambda: all(len(client.frames) > COUNT // 10 for client in clients), "the beginning of all runs"
        )
        yield clients


async def whole(one: Fleet, clients: Sequence[WatchingClient]) -> None:
    """Each saw what the log holds, all of it, once and in order; and the log holds one whole answer."""
    for client in clients:
        records = await read_log(one.brokers.url("admin"), client.run)
        shown = [record for record in records if View().sees(record.head)]
        assert b"".join(client.frames[:-1]) == client_bytes(shown)
        assert [record.head.prev for record in records[1:]] == [record.seq for record in records[:-1]]
        events = [msgspec.json.decode(frame.split(b"data: ", 1)[1]) for frame in client.frames[:-1]]
        starts = [number for number, event in enumerate(events) if event["type"] == "reset-step"]
        last = events[starts[-1] + 1 if starts else 0 :]
        text = "".join(event["delta"] for event in last if event["type"] == "text-delta")
        assert text == " ".join(str(number) for number in range(1, COUNT + 1))
        assert [event["type"] for event in events].count("finish") == 1
