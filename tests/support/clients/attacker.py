"""A client with one ordinary key that sends at the same time all that costs a server most.

`python -m tests.support.clients.attacker KEY GATEWAY…` attacks until it is ended, in a process of its own,
and writes its counts of statuses after each round. It sends texts of megabytes, tools that end or block their
process, quadratic patterns, images, JSON, and holds connections.
"""

import asyncio
import base64
import functools
import io
import itertools
import json
import os
import secrets
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp

from rejoin_protocol.limits import BODY_BYTES_MAX, MIB, TEXT_BYTES_MAX
from tests.support.data.costly_images import encoded, jpeg_with_scans, webp_of

CONNECTIONS = 150
"""Of each kind that is held open, at each gateway."""
STALLED_BYTES = 900 * 1024
HUGE = "😀" + "x" * (16 * MIB)
LARGE = "😀" + "x" * (TEXT_BYTES_MAX - 100)
BLOCK_S = 15
AWAY = (aiohttp.ClientError, OSError, TimeoutError)

type Attack = Callable[["Attacker"], Coroutine[Any, Any, None]]


class Attacker:
    """Sends requests, and counts what they are answered."""

    def __init__(self, http: aiohttp.ClientSession, key: str, gateways: Sequence[str]) -> None:
        self.http = http
        self.gateways = itertools.cycle(gateways)
        self.all_gateways = gateways
        self.counts: Counter[str] = Counter()
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    async def send(self, kind: str, *texts: str, session: str = "", files: Sequence[str] = ()) -> None:
        """Send a message after earlier ones, and read its answer."""
        parts = [[{"type": "text", "text": text}] for text in texts]
        parts[-1] += [{"type": "file", "mediaType": url[5 : url.index(";")], "url": url} for url in files]
        messages = [{"id": secrets.token_hex(8), "role": "user", "parts": part} for part in parts]
        body = {"id": session or f"{kind}-{secrets.token_hex(6)}", "messages": messages}
        await self.post(kind, json.dumps(body | {"trigger": "submit-message"}, ensure_ascii=False).encode())

    async def post(self, kind: str, body: bytes) -> None:
        """Send a body."""
        await self._count(kind, self.http.post, "/api/chat", data=io.BytesIO(body))

    async def get(self, kind: str, path: str) -> None:
        """Read a path."""
        await self._count(kind, self.http.get, path)

    async def _count(self, kind: str, method: Any, path: str, **more: Any) -> None:
        try:
            async with method(next(self.gateways) + path, headers=self._headers, **more) as response:
                await response.read()
                self.counts[f"{kind} {response.status}"] += 1
        except AWAY as fault:
            self.counts[f"{kind} {type(fault).__name__}"] += 1


async def send_huge_texts(attacker: Attacker) -> None:
    """What is refused, and what is just taken and read again."""
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(attacker.send("huge", HUGE))
        for number in range(8):
            group.create_task(attacker.send("large", LARGE, LARGE, "count 3", session=f"large-{number}"))
    await attacker.get("history", "/api/agents/poison/large-0")


async def end_the_process(attacker: Attacker) -> None:
    """A tool raises what is no `Exception`."""
    await attacker.send("leave", "leave SystemExit")
    await attacker.send("leave", "leave BaseException")


async def block_the_loop(attacker: Attacker) -> None:
    """A tool blocks its event loop."""
    await attacker.send("block", f"block {BLOCK_S}")


async def feed_patterns(attacker: Attacker) -> None:
    """A path without a credential, and a tool that raises what the user has sent."""
    await attacker.get("pattern", "/api/agents/" + "-eyJ" * 1_900)
    await attacker.send("shout", "shout " + "-eyJ" * 75_000)


@functools.cache
def costly_urls() -> list[str]:
    """Images as data URLs. The last one is taken, and takes seconds to decode."""
    pictures = [
        ("image/webp", webp_of(16_000, 16_000)),
        ("image/jpeg", encoded(6_500, 6_500, "jpeg", progressive=True, subsampling=0)),
        ("image/jpeg", jpeg_with_scans(80)),
    ]
    return [f"data:{kind};base64,{base64.b64encode(data).decode()}" for kind, data in pictures]


async def send_images(attacker: Attacker) -> None:
    """Those that their header refuses, and those that take long."""
    urls = costly_urls()
    async with asyncio.TaskGroup() as group:
        for url in [*urls, *[urls[-1]] * 6]:
            group.create_task(attacker.send("image", "count 2", files=[url]))


async def send_json(attacker: Attacker) -> None:
    """JSON that is small on the wire and large in memory."""
    await attacker.post("json", b'{"id":"s","messages":[' + b"{}," * (BODY_BYTES_MAX // 3 - 100) + b"{}]}")
    await attacker.post("json", b'{"id":"s","messages":[' + b'"ab",' * 300_000 + b"{}]}")


async def hold_connections(attacker: Attacker) -> None:
    """Heads and bodies that never end, and connections without a byte. The gateways close them."""
    head = b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 921600\r\n"
    auth = f"Authorization: {attacker._headers['Authorization']}\r\n\r\n".encode()
    async with asyncio.TaskGroup() as group:
        for base, _ in itertools.product(attacker.all_gateways, range(CONNECTIONS)):
            for sent in (b"", head, head + auth + b"x" * STALLED_BYTES):
                group.create_task(_hold(attacker, base, sent))


async def _hold(attacker: Attacker, base: str, sent: bytes) -> None:
    host, _, port = base.removeprefix("http://").partition(":")
    with suppress(*AWAY):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(sent)
            await writer.drain()
            while await reader.read(65_536):
                pass
        finally:
            writer.close()
    attacker.counts["connection closed"] += 1


ATTACKS: Sequence[Attack] = (
    send_huge_texts,
    end_the_process,
    block_the_loop,
    feed_patterns,
    send_images,
    send_json,
    hold_connections,
)


async def _repeat(attack: Attack, attacker: Attacker) -> None:
    while True:
        await attack(attacker)
        sys.stdout.write(json.dumps(attacker.counts) + "\n")
        sys.stdout.flush()


@asynccontextmanager
async def _open(key: str, gateways: Sequence[str]) -> AsyncIterator[Attacker]:
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http:
        yield Attacker(http, key, gateways)


async def main(key: str, *gateways: str) -> None:
    """Carry out all attacks at the same time until the process is ended."""
    async with _open(key, gateways) as attacker, asyncio.TaskGroup() as group:
        for attack in ATTACKS:
            group.create_task(_repeat(attack, attacker))


if __name__ == "__main__":
    os.nice(10)  # an attacker has a machine of its own
    asyncio.run(main(*sys.argv[1:]))
