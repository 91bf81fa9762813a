"""A model provider with OpenAI's protocol that sends `TOKENS` tokens, `RATE` per second.

`python -m bench.provider PORT`.
"""

import asyncio
import sys
from contextlib import suppress

import msgspec
from aiohttp import web

RATE = 50
TOKENS = 600
_END = b"data: [DONE]\n\n"


def frame(delta: dict[str, str], finish: str | None = None) -> bytes:
    """One chunk as a server-sent event."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    """One chunk as a server-sent event."""
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


async def completions(request: web.Request) -> web.StreamResponse:
    """Stream an answer."""
    await request.read()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(frame({"role": "assistant", "content": ""}))
    clock = asyncio.get_running_loop().time
    due_s = clock()
    with suppress(ConnectionError):  # the caller may disconnect
        for number in range(TOKENS):
            due_s += 1 / RATE
            await asyncio.sleep(max(0.0, due_s - clock()))
            await response.write(frame({"content": f" word{number}"}))
        await response.write(frame({}, "stop") + _END)
    return response


app = web.Application()
app.add_routes([web.post("/v1/chat/completions", completions)])

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
