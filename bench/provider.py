"""A model provider with OpenAI's protocol, whose tokens contain the times at which they are sent.

`python -m bench.provider PORT`. The message `N every M ms` asks for N tokens, M milliseconds apart, the first
at once. Any other message gets `TOKENS` tokens, `RATE` per second.
"""

import asyncio
import re
import sys
import time
from contextlib import suppress

import msgspec
from aiohttp import web

RATE = 50
TOKENS = 600
_WORDS = re.compile(rb"(\d+) every (\d+) ms")


def frame(delta: dict[str, str], finish: str | None = None) -> bytes:
    """One chunk as a server-sent event."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-bench",
        "service_tier": "default",
        "system_fingerprint": "fp_1",
        "choices": [choice],
        "usage": None,
    }
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


_START = frame({"role": "assistant", "content": ""})
_BEFORE_TIME, _AFTER_TIME = frame({"content": " TIME"}).split(b"TIME")
_END = frame({}, "stop") + b"data: [DONE]\n\n"


async def completions(request: web.Request) -> web.StreamResponse:
    """Stream an answer; each token is a write."""
    words = _WORDS.findall(await request.read())
    tokens, pause_s = (int(words[-1][0]), int(words[-1][1]) / 1_000) if words else (TOKENS, 1 / RATE)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    with suppress(ConnectionError):  # the caller may disconnect
        await response.write(_START)
        clock = asyncio.get_running_loop().time
        due_s = clock()
        for _ in range(tokens):
            await asyncio.sleep(max(0.0, due_s - clock()))
            due_s += pause_s
            await response.write(b"%b%d%b" % (_BEFORE_TIME, time.monotonic_ns(), _AFTER_TIME))
        await response.write(_END)
    return response


app = web.Application()
app.add_routes([web.post("/v1/chat/completions", completions)])

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, shutdown_timeout=0)
