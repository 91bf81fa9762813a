"""The client's side of a measurement: requests, and the time at which their events arrive."""

import asyncio
import time
import uuid
from collections.abc import Sequence

import aiohttp
import msgspec

from protocol import sse

DONE = b"[DONE]"


class Heard(msgspec.Struct):
    """One answer: seconds to the first event, and from the making of each delta to its arrival."""

    first_s: float
    latencies_s: list[float]
    events: int


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def ask(http: aiohttp.ClientSession, base: str, text: str) -> Heard:
    """One POST, read to its end."""
    message = {"id": uuid.uuid4().hex, "role": "user", "parts": [{"type": "text", "text": text}]}
    body = {"id": uuid.uuid4().hex, "messages": [message], "trigger": "submit-message"}
    began = time.monotonic_ns()
    first_ns, latencies, events, reader = 0, [], 0, sse.Reader()
    async with http.post(f"{base}/api/chat", json=body) as response:
        response.raise_for_status()
        async for received in response.content.iter_any():
            now = time.monotonic_ns()
            for frame in reader.feed(received):
                first_ns = first_ns or now
                events += frame.data != DONE
                if b'"text-delta"' in frame.data:
                    latencies.append((now - int(msgspec.json.decode(frame.data)["delta"])) / 1e9)
    return Heard((first_ns - began) / 1e9, latencies, events)


async def asks(base: str, text: str, *, total: int, at_once: int) -> list[Heard]:
    """Many, so many at once."""
    gate = asyncio.Semaphore(at_once)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:

        async def one() -> Heard:
            async with gate:
                return await ask(http, base, text)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one()) for _ in range(total)]
        return [task.result() for task in tasks]
