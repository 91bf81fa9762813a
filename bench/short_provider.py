"""A model provider with OpenAI's protocol that answers at once, with `TOKENS` tokens.

`python -m bench.short_provider PORT`.
"""

import asyncio
import sys

from aiohttp import web

from bench.provider import frame

TOKENS = 20
FRAMES = [
    frame({"role": "assistant", "content": ""}),
    *(frame({"content": f" word{number}"}) for number in range(TOKENS)),
    frame({}, "stop") + b"data: [DONE]\n\n",
]


async def completions(request: web.Request) -> web.StreamResponse:
    """Stream an answer; each token is a write."""
    await request.read()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for token in FRAMES:
        await response.write(token)
        await asyncio.sleep(0)
    return response


app = web.Application()
app.add_routes([web.post("/v1/chat/completions", completions)])

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
