"""A model provider on loopback that sends what a test has queued, frame by frame.

It checks every request by the rules of the provider that it stands for: a request that breaks one is refused
as that provider refuses it, and fails the test.
"""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from aiohttp import web

from tests.support.providers.profiles import OPENAI, ProviderProfile
from tests.support.providers.rules import find_violations, profile_of, refusal_body


def frame(data: object) -> bytes:
    return b"data: %s\n\n" % json.dumps(data).encode()


def delta(*, finish: str | None = None, **fields: object) -> bytes:
    """One chunk with its only choice: `delta(content="Hi")`, `delta(finish="stop")`."""
    return frame(_chunk(choices=[{"index": 0, "delta": fields, "finish_reason": finish}]))


def usage(tokens_in: int, tokens_out: int) -> bytes:
    sums = {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
    }
    return frame(_chunk(choices=[], usage=sums))


def call(index: int, arguments: str, *, name: str | None = None, call_id: str | None = None) -> bytes:
    """A piece of a tool call. The first one of a call carries its name and id."""
    said: dict[str, object] = {"index": index, "function": {"arguments": arguments}}
    if name is not None:
        said |= {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return delta(tool_calls=[said])


def _chunk(**fields: object) -> dict[str, object]:
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake", **fields}


@dataclass(frozen=True)
class ProviderReply:
    """`done` ends with `[DONE]`, `eof` without, `cut` breaks the connection, `stall` says nothing more.
    `slam` breaks it before any answer. A frame is bytes as they are, a pause in seconds, or an event to wait
    for.
    """

    frames: Sequence[bytes | float | asyncio.Event] = ()
    ending: Literal["done", "eof", "cut", "stall", "slam"] = "done"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def text(*pieces: str) -> ProviderReply:
    """A complete answer of text."""
    return ProviderReply(
        [*(delta(content=piece) for piece in pieces), delta(finish="stop"), usage(3, len(pieces))]
    )


def failure(status: int, **headers: str) -> ProviderReply:
    body = json.dumps(
        {"error": {"message": "secret sk-1234 at 10.0.0.1", "type": "x", "code": None}}
    ).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ProviderReply([body], status=status, headers={"content-type": "application/json", **named})


class FakeProvider:
    """`async with FakeProvider() as provider: provider.queue(text("Hi"))`; models use its `base_url`.

    `profile` says whose rules hold for chat completions. At its end it raises `AssertionError` if a request
    broke a rule, unless the test has taken the `violations`.
    """

    def __init__(self, profile: ProviderProfile = OPENAI) -> None:
        self.profile = profile
        self.violations: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.headers: list[Mapping[str, str]] = []
        self.asked = asyncio.Event()
        self.left = asyncio.Event()
        self._replies: deque[ProviderReply] = deque()
        self._runner: web.AppRunner | None = None
        self.address = ""
        """For clients that add the version themselves."""
        self.base_url = ""

    def queue(self, *replies: ProviderReply) -> None:
        self._replies.extend(replies)

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/{path:.+}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"http://{host}:{port}"
        self.base_url = f"{self.address}/v1"
        return self

    async def __aexit__(
        self, cause: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()
        if cause is None and self.violations:
            raise AssertionError(f"requests broke the provider's rules: {self.violations}")

    def take_violations(self) -> list[str]:
        """The rules that requests broke so far; they are forgotten."""
        taken, self.violations = self.violations, []
        return taken

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(await request.json())
        self.paths.append(request.path)
        self.headers.append(request.headers)
        named = (request.headers.get(name) for name in ("authorization", "x-api-key", "api-key"))
        self.keys.append(next((key for key in named if key is not None), None))
        self.asked.set()
        if refused := self._check(request.path, self.requests[-1]):
            return refused
        reply = self._replies.popleft() if self._replies else failure(418)
        headers = {"content-type": "text/event-stream", **reply.headers}
        response = web.StreamResponse(status=reply.status, headers=headers)
        if reply.ending == "slam":
            assert request.transport is not None
            request.transport.abort()
            return response
        with self._watched():
            await response.prepare(request)
            for one in reply.frames:
                match one:
                    case bytes():
                        await response.write(one)
                    case asyncio.Event():
                        await one.wait()
                    case _:
                        await asyncio.sleep(one)
            await self._end(reply, request, response)
        return response

    def _check(self, path: str, request: dict[str, Any]) -> web.Response | None:
        """The provider's refusal, if the request breaks its rules."""
        profile = profile_of(path, self.profile)
        if not (violations := find_violations(request, profile)):
            return None
        self.violations += violations
        body = refusal_body(profile, violations[0])
        return web.Response(status=400, body=body, content_type="application/json")

    async def _end(self, reply: ProviderReply, request: web.Request, response: web.StreamResponse) -> None:
        match reply.ending:
            case "done" if reply.status == web.HTTPOk.status_code:
                await response.write(b"data: [DONE]\n\n")
            case "cut":
                assert request.transport is not None
                request.transport.abort()
            case "stall":
                await asyncio.Event().wait()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise
