"""Holds many streams open at gateways that run somewhere: `python -m bench.open_streams URL… --streams
10000`.

Each stream sends one message to a new session of `--agent` and reads the answer; when it ends, it sends
another. With the demo agent, `--text "sleep 60"` is a stream without events, `--text "count 3000 every 20
ms"` one with 50 a second. `--api-key` for gateways that want one. Prints each second how many streams are
open, how many were refused or cut, and the events received in it. One process reads about 40,000 events a
second: start several, on several machines, each with its own limit of open files.
"""

import argparse
import asyncio
import sys
import time
import uuid
from collections.abc import Sequence

import aiohttp

from rejoin_adapters.process.service_process import raise_open_file_limit

RETRY_S = 1.0


class _Totals:
    """What all streams have seen so far."""

    def __init__(self) -> None:
        self.open = 0
        self.refused = 0
        self.cut = 0
        self.events = 0


async def _hold(http: aiohttp.ClientSession, url: str, text: str, totals: _Totals) -> None:
    """Keep one stream open, forever."""
    while True:
        message = {"id": uuid.uuid4().hex, "role": "user", "parts": [{"type": "text", "text": text}]}
        body = {"id": uuid.uuid4().hex, "messages": [message], "trigger": "submit-message"}
        try:
            async with http.post(f"{url}/api/chat", json=body) as response:
                if response.status != 200:  # noqa: PLR2004
                    totals.refused += 1
                else:
                    totals.open += 1
                    try:
                        complete = await _read(response, totals)
                    finally:
                        totals.open -= 1
                    totals.cut += not complete
                    continue
        except (aiohttp.ClientError, TimeoutError):
            totals.refused += 1
        await asyncio.sleep(RETRY_S)


async def _read(response: aiohttp.ClientResponse, totals: _Totals) -> bool:
    """Read a stream to its end; whether it was complete."""
    complete = False
    try:
        async for line in response.content:
            totals.events += line.startswith(b"data: {")
            complete = complete or line == b"data: [DONE]\n"
    except aiohttp.ClientError:
        pass
    return complete


async def _report(totals: _Totals) -> None:
    events, then = 0, time.monotonic()
    while True:
        await asyncio.sleep(1)
        now = time.monotonic()
        rate, events, then = (totals.events - events) / (now - then), totals.events, now
        sys.stdout.write(
            f"{totals.open} open, {totals.refused} refused, {totals.cut} cut, {rate:,.0f} events/s\n"
        )
        sys.stdout.flush()


async def _main(urls: Sequence[str], streams: int, text: str, agent: str, api_key: str) -> None:
    raise_open_file_limit()
    headers = {"x-agent-id": agent} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
    totals = _Totals()
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as http,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(_report(totals))
        for number in range(streams):
            group.create_task(_hold(http, urls[number % len(urls)], text, totals))
            await asyncio.sleep(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("urls", nargs="+")
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--text", default="sleep 60")
    parser.add_argument("--agent", default="demo")
    parser.add_argument("--api-key", default="")
    given = parser.parse_args()
    asyncio.run(_main(given.urls, given.streams, given.text, given.agent, given.api_key))
