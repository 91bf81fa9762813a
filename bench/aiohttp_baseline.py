"""The baseline `bare`: an aiohttp handler that writes a run's events from memory.

`python -m bench.aiohttp_baseline PORT`.
"""

import asyncio
import re
import sys
import time
from typing import Any

import msgspec
from aiohttp import web

from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.log import record, sse

_WORDS = re.compile(r"(\d+) every (\d+) ms")


async def chat(request: web.Request) -> web.StreamResponse:
    """Stream the events of an answer with the text that the message asks for."""
    body: dict[str, Any] = msgspec.json.decode(await request.read())
    words = _WORDS.fullmatch(body["messages"][-1]["parts"][0]["text"])
    count, pause_ms = (int(words[1]), int(words[2])) if words else (1, 0)
    response = web.StreamResponse(headers=sse.STREAM_HEADERS)
    await response.prepare(request)
    opening: list[Chunk] = [chunks.Start(message_id="m"), chunks.StartStep(), chunks.TextStart(id="t")]
    await response.write(record.encode_frames(map(chunks.encode, opening), prev=0, index=0))
    for index in range(count):
        await asyncio.sleep(pause_ms / 1_000 if index else 0)
        delta = chunks.TextDelta(id="t", delta=str(time.monotonic_ns()))
        await response.write(record.encode_frames([chunks.encode(delta)], prev=index, index=index))
    await response.write(sse.DONE)
    return response


app = web.Application()
app.add_routes([web.post("/api/chat", chat)])

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
