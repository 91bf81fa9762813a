"""The parts of the chaos test: processes, strikes at them, and clients that live through the strikes.

A client behaves like `useChat` in a browser with a bad connection: it posts, reads, is cut, resumes after its
last event at another gateway, and repeats the same request if it got no response. It keeps every byte that it
receives for `tests/support/faults/invariants.py`.
"""

import asyncio
import io
import itertools
import secrets
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

import aiohttp
import asyncpg
import msgspec
import psutil

from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.jetstream.setup import ACK_WAIT_S
from rejoin_protocol import file_formats
from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import Fold, MessageDict
from tests.support.agents.chaos import CALLS
from tests.support.clients.reconnecting_client import DONE, END, cursor_of, split_frames
from tests.support.system.nats_cluster import Cluster
from tests.support.system.processes import Dev, Part, rejoin_dev

EACH = 3
"""So many gateways, and so many runners."""
STOPPED_S = ACK_WAIT_S + 1.0
STOPPED_MAX = 2
BROKER_PERIOD_S = 15.0
"""Between two kills of clustered brokers. A new leader takes four to eight seconds."""
SILENCE_S_MAX = 3.0
"""A client that hears nothing for this long tries another gateway: this one may be stopped."""
AGAIN_S = (0.02, 0.3)
DELETED = 0.03
"""How often a person walks away, and has the session deleted."""
LIMITS = (10, 25, None)
"""Of the runs that the tenant may have ready at once; it changes now and then."""
WORDS = (
    *("count", "count", "count", "weather", "think", "sleep", "delete"),
    *("refer", "ask", "ask", "walk", "once", "draw", "look"),
)
LARGE_BYTES = 16 * 1024 * 1024
ATTACKS = ("poison 0.2", "", "block 3", "", "count 20 every 10 ms")
"""What an attacker sends in turn; the empty text stands for a large one."""
ATTACK_PERIOD_S = 3.0
AWAY = (aiohttp.ClientError, OSError, TimeoutError)


# -------------------------------------------------------------------------------------------- the processes


@asynccontextmanager
async def chaos_installation(
    directory: Path, each: int = EACH, brokers: Cluster | None = None
) -> AsyncIterator[Dev]:
    """`rejoin dev`; its tools log their executions to the file `calls` in the directory. `brokers`: used in
    place of its own one.
    """
    calls = directory / "calls"
    calls.touch()
    variables = {CALLS: str(calls), "REJOIN_LOOP_BLOCKED_MAX_S": "1"}
    if brokers is not None:
        replicas = len(brokers.nodes)
        variables |= {"REJOIN_NATS_URL": brokers.url("admin"), "REJOIN_NATS_REPLICAS": str(replicas)}
    async with rejoin_dev(
        directory, "tests.support.agents.chaos:agent", each=each, variables=variables
    ) as one:
        if brokers is not None:
            one.nats_url = brokers.url("admin")
            async with nats_connection.connect(one.nats_url, "tests") as connection:
                await setup.declare_streams(connection, setup.StreamSettings(replicas))
        yield one


async def strike_brokers(brokers: Cluster, duration_s: float) -> None:
    """Kill one broker after the other, and start it again."""
    period_s = min(BROKER_PERIOD_S, duration_s / 2)
    for _, node in zip(range(int(duration_s / period_s)), itertools.cycle(brokers.nodes), strict=False):
        await asyncio.sleep(period_s)
        await node.kill()
        await node.start()


async def is_settled(database_url: str) -> bool:
    """Whether no run is queued or running."""
    query = "select count(*) from runs where state in ('queued', 'running')"
    connection = await asyncpg.connect(database_url)
    try:
        return bool(await connection.fetchval(query) == 0)
    finally:
        await connection.close()


async def read_history(http: aiohttp.ClientSession, base: str, session: str) -> Sequence[MessageDict]:
    """The messages of a session."""
    async with http.get(f"{base}/api/agents/chaos/{session}") as response:
        assert response.status == 200, await response.text()
        messages: Sequence[MessageDict] = (await response.json())["messages"]
        return messages


# ---------------------------------------------------------------------------------------------- the strikes


class Strike(msgspec.Struct, frozen=True):
    """Which fault hits which process, and when."""

    at_s: float
    part: Part
    number: int
    way: signal.Signals


class StrikeRecord(msgspec.Struct, frozen=True):
    """A strike that was carried out: when, and which runs (with their attempts) the process held."""

    strike: Strike
    at: float
    held: dict[str, int]


def schedule(random: Random, duration_s: float) -> list[Strike]:
    """One strike a second, and one for each server. The same seed gives the same schedule."""
    ways = [signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM]
    parts: list[Part] = ["gateway", "runner", "runner"]
    strikes = [
        Strike(
            second + random.random() * 0.5, random.choice(parts), random.randrange(EACH), random.choice(ways)
        )
        for second in range(1, int(duration_s))
    ]
    nats, postgres = random.sample([duration_s * 0.35, duration_s * 0.7], 2)
    strikes += [
        Strike(nats, "nats", 0, signal.SIGKILL),
        Strike(postgres, "postgres", 0, signal.SIGKILL),
    ]
    return sorted(strikes, key=lambda strike: strike.at_s)


class Chaos:
    """Carries out strikes by schedule. Stopped processes are continued at the end."""

    def __init__(self, where: Dev) -> None:
        self._place = where
        self._stopped: set[psutil.Process] = set()
        self.struck: list[StrikeRecord] = []
        self.missed = 0

    async def go(self, strikes: Sequence[Strike]) -> None:
        """Carry out all strikes."""
        began = monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                for strike in strikes:
                    await asyncio.sleep(max(0.0, began + strike.at_s - monotonic()))
                    await self._strike(strike, group)
        finally:
            for process in self._stopped:
                _continue(process)

    async def _strike(self, strike: Strike, group: asyncio.TaskGroup) -> None:
        if strike.way is signal.SIGSTOP and len(self._stopped) >= STOPPED_MAX:
            self.missed += 1
            return
        try:
            process = self._place.find(strike.part, strike.number)
            held = await self._held(process.pid) if strike.part == "runner" else {}
            process.send_signal(strike.way)
        except (LookupError, psutil.Error):
            self.missed += 1
            return
        self.struck.append(StrikeRecord(strike, monotonic(), held))
        if strike.way is signal.SIGSTOP:
            self._stopped.add(process)
            group.create_task(self._later(process))

    async def _later(self, process: psutil.Process) -> None:
        await asyncio.sleep(STOPPED_S)
        _continue(process)
        self._stopped.discard(process)

    async def _held(self, pid: int) -> dict[str, int]:
        query = "select id, attempt from runs where state = 'running' and runner like '%-' || $1::text"
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            connection = await asyncpg.connect(self._place.database_url, timeout=0.5)
            try:
                return {row["id"]: row["attempt"] for row in await connection.fetch(query, str(pid))}
            finally:
                connection.terminate()
        return {}


async def vary_tenant_limit(where: Dev, random: Random) -> None:
    """Change the tenant's limit of ready runs until cancelled, then remove it."""
    while True:
        await set_limit(where, random.choice(LIMITS))
        await asyncio.sleep(random.uniform(1, 5))


async def set_limit(where: Dev, running_max: int | None) -> bool:
    """Set the limit. Returns whether the database accepted it."""
    limits = "{}" if running_max is None else f'{{"running_max": {running_max}}}'
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
        connection = await asyncpg.connect(where.database_url, timeout=0.5)
        try:
            await connection.execute("update tenants set limits = $1 where id = 'default'", limits, timeout=2)
        finally:
            connection.terminate()
        return True
    return False


def _continue(process: psutil.Process) -> None:
    with suppress(psutil.Error):
        process.send_signal(signal.SIGCONT)


# ---------------------------------------------------------------------------------------------- the clients


class Send(msgspec.Struct):
    """One message, and every byte that a client received of its answer."""

    session: str
    text: str
    operations: bool
    message: str = msgspec.field(default_factory=lambda: f"u-{secrets.token_hex(8)}")
    file: bytes = b""
    run: str = ""
    frames: list[bytes] = []
    times: list[float] = []
    faults: list[str] = []
    resumes: int = 0
    posts: int = 0

    @property
    def question(self) -> MessageDict | None:
        """The answer so far if it ends with a pending approval."""
        fold = Fold()
        for frame in self.frames:
            fold.apply(chunks.decode(frame.split(b"\ndata: ", 1)[1].removesuffix(END)))
        asked = [part for part in fold.message.get("parts", ()) if part.get("state") == "approval-requested"]
        return fold.message if asked else None

    @property
    def body(self) -> dict[str, Any]:
        """The body that `useChat` posts."""
        parts: list[dict[str, Any]] = [{"type": "text", "text": self.text}]
        if self.file:
            url = file_formats.to_data_url(file_formats.PDF, self.file)
            parts.append({"type": "file", "mediaType": file_formats.PDF, "url": url})
        message = {"id": self.message, "role": "user", "parts": parts}
        return {"id": self.session, "messages": [message], "trigger": "submit-message"}


def with_decisions(answer: MessageDict, *, approved: bool) -> MessageDict:
    """The answer with a decision for each pending approval."""
    parts = [
        part | {"state": "approval-responded", "approval": part["approval"] | {"approved": approved}}
        if part.get("state") == "approval-requested"
        else part
        for part in answer["parts"]
    ]
    return answer | {"parts": parts}


class Attacker:
    """Somebody whose messages end runners, block them, or are as large as a gateway reads."""

    def __init__(self, http: aiohttp.ClientSession, gateways: Sequence[str], random: Random) -> None:
        self._http = http
        self._gateways = gateways
        self._random = random
        self.sent: list[str] = []

    async def attack(self, until: float) -> None:
        """Send one message after the other until `until`, and wait for no answer."""
        texts = itertools.cycle(ATTACKS)
        while monotonic() < until:
            text, session = next(texts), f"attack-{secrets.token_hex(6)}"
            body = Send(session, text or secrets.token_hex(LARGE_BYTES // 2), operations=False).body
            url = f"{self._random.choice(self._gateways)}/api/chat"
            with suppress(*AWAY):
                data = io.BytesIO(msgspec.json.encode(body))
                headers = {"Content-Type": "application/json"}
                async with self._http.post(url, data=data, headers=headers) as response:
                    self.sent.append(f"{text or 'large'}: {response.status}")
            await asyncio.sleep(self._random.uniform(0.5, ATTACK_PERIOD_S))


class Client:
    """A person with a session and a bad connection, who sometimes (`leaves`) abandons the session and deletes
    it.
    """

    def __init__(
        self, http: aiohttp.ClientSession, gateways: Sequence[str], random: Random, *, leaves: bool = False
    ) -> None:
        self._http = http
        self._leaves = leaves
        self._gateways = gateways
        self._random = random
        self.session = f"s-{secrets.token_hex(6)}"
        self.sends: list[Send] = []
        self.deleted: list[Send] = []

    async def converse(self, until: float) -> None:
        """Send message after message until `until`, sometimes two at once. Read every answer to its end."""
        while monotonic() < until:
            if self._leaves and self._random.random() < DELETED:
                await self._walk_away()
            async with asyncio.TaskGroup() as group:
                for _ in range(1 + (self._random.random() < 0.1)):
                    send = self._send()
                    group.create_task(self._carry(send))
                if self._random.random() < 0.1:
                    group.create_task(self._stop(send, self._random.random()))
            await asyncio.sleep(self._random.uniform(0, 0.4))

    def _send(self) -> Send:
        send = Send(self.session, self._text(), self._random.random() < 0.3)
        if send.text == "look":
            word = secrets.token_hex(self._random.choice([8, 60_000]))
            send.file = f"%PDF-1.4\n%{word}\n%%EOF\n".encode()
        self.sends.append(send)
        return send

    async def _walk_away(self) -> None:
        """Send one more message, leave in the middle of the answer, and delete the session."""
        send = self._send()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._random.uniform(0, 1.5)):
                await self._carry(send)
        await self._delete()
        self.deleted += self.sends
        self.sends = []
        self.session = f"s-{secrets.token_hex(6)}"

    async def _delete(self) -> None:
        while True:
            with suppress(*AWAY):
                url = f"{self._gateway()}/api/agents/chaos/{self.session}"
                async with self._http.delete(url) as response:
                    if response.status in (
                        200,
                        404,
                    ):  # 404: it was, and the answer was lost; or it never came
                        return
                    assert response.status == 503, await response.text()
            await self._pause()

    async def catch_up(self) -> None:
        """Read what a later interrupt has added to answers that waited for a person."""
        for send in self.sends:
            if send.frames:
                await self._follow(send, None)

    def _text(self) -> str:
        word = self._random.choice(WORDS)
        match word:
            case "count":
                return f"count {self._random.randint(5, 80)} every {self._random.randint(5, 50)} ms"
            case "weather":
                return f"weather {self._random.choice(['Paris', 'Lima', 'Kyiv'])}"
            case "sleep":
                return "sleep 0.2"
            case "delete" | "ask":
                return f"{word} {secrets.token_hex(3)}.txt"
            case "walk" | "once" | "draw":
                return f"{word} {self._random.randint(3, 25)}"
            case _:
                return word

    async def _carry(self, send: Send) -> None:
        await self._follow(send, send.body)
        answer = send.question
        if answer is None:
            return
        await asyncio.sleep(self._random.uniform(0, 0.2))
        match self._random.choice(["approve", "approve", "deny", "stop", "leave"]):
            case "stop":
                await self._stop(send, 0)
                await self._follow(send, None)
            case "leave":
                pass
            case word:
                message = with_decisions(answer, approved=word == "approve")
                await self._follow(
                    send, {"id": send.session, "messages": [message], "messageId": message["id"]}
                )

    async def _stop(self, send: Send, after_s: float) -> None:
        await asyncio.sleep(after_s)
        while True:
            with suppress(*AWAY):
                async with self._http.post(f"{self._gateway()}/api/chat/{send.session}/stop") as response:
                    if response.status in (200, 404):
                        return
                    if response.status != 503:
                        send.faults.append(f"stop: {response.status} {await response.text()}")
            await self._pause()

    async def _follow(self, send: Send, body: dict[str, Any] | None) -> None:
        """Post until something of the answer arrives, then resume until it ends."""
        before = len(send.frames)
        while True:
            with suppress(*AWAY):
                posting = body is not None and len(send.frames) == before
                if await (self._post(send, body) if posting else self._resume(send)):
                    return
            await self._pause()

    async def _post(self, send: Send, body: Any) -> bool:
        send.posts += 1
        url = f"{self._gateway()}/api/chat?ui=7"
        async with self._http.post(url, json=body, headers=_headers(send)) as response:
            if response.status == 409 and "messageId" in body:
                return await self._resume(send)  # it was interrupted before it was decided
            return await self._read(send, response)

    async def _resume(self, send: Send) -> bool:
        send.resumes += 1
        url = f"{self._gateway()}/api/chat/{send.session}/stream?ui=7"
        headers = {"Last-Event-ID": cursor_of(send.frames[-1])}
        async with self._http.get(url, headers=headers | _headers(send)) as response:
            # 204: the run has ended with the last event.
            return response.status == 204 or await self._read(send, response)

    async def _read(self, send: Send, response: aiohttp.ClientResponse) -> bool:
        """Read a response. Returns whether the answer came to its end; False after a cut."""
        if response.status == 503:
            return False
        if response.status != 200 or "x-workflow-run-id" not in response.headers:
            send.faults.append(f"{response.method} {response.status}: {(await response.text())[:300]}")
            return response.status < 500  # what is refused once is refused for ever
        run = response.headers["x-workflow-run-id"]
        if send.run not in ("", run):
            send.faults.append(f"{response.method} leads to {run} and not to {send.run}")
        send.run = send.run or run
        left = self._random.randint(0, 20) if self._random.random() < 0.25 else 1_000_000
        rest = b""
        while received := await self._more(send, response):
            rest += received
            for frame in split_frames(rest):
                if frame == DONE:
                    return True
                if left == 0:
                    response.close()
                    return False
                left -= 1
                send.frames.append(frame)
                send.times.append(monotonic())
            rest = rest.rpartition(END)[2]
        send.faults.append(f"{response.method} ended without [DONE] and without an error")
        return False

    async def _more(self, send: Send, response: aiohttp.ClientResponse) -> bytes:
        try:
            async with asyncio.timeout(2 * SILENCE_S_MAX) as patience:
                return await response.content.readany()
        except AWAY as fault:
            # Not the broken stream that is promised, but one that a client cannot read.
            if patience.expired() or "chunk size" in str(fault).lower():
                send.faults.append(f"{response.method} was answered with something else: {fault!r}")
            raise

    def _gateway(self) -> str:
        return self._random.choice(self._gateways)

    async def _pause(self) -> None:
        await asyncio.sleep(self._random.uniform(*AGAIN_S))


def _headers(send: Send) -> dict[str, str]:
    return {"x-emit-operations": "true"} if send.operations else {}


@asynccontextmanager
async def open_client_connections() -> AsyncIterator[aiohttp.ClientSession]:
    """The clients' HTTP connections."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=2, sock_read=SILENCE_S_MAX)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        yield session
