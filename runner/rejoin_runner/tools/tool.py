"""Functions as tools: the decorator, the schema made of a signature, and how a call is made.

Owns how a function becomes callable by a model and never when it is called. A tool's arguments are checked
against its signature before it runs; what it raises is told to the model, `ToolError` in its own words and
everything else by its type only, because an exception's text may hold what a user must not see.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, Literal

import msgspec
from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.partial_json import names_prototype

from rejoin_runner.models.model import ToolSpec
from rejoin_runner.tools import thread_calls
from rejoin_runner.tools.tool_context import SyncToolContext, ToolContext

RESULT_BYTES_MAX = 256 * 1024
EXCERPT_CHARS = 2_000
"""What of a result that became an artifact the model still reads."""

type OnCrash = Literal["retry", "report"]
type Overflow = Literal["error", "artifact"]
type NeedsApproval[C] = bool | Callable[[dict[str, Any], ToolContext[C]], bool]


class ToolError(Exception):
    """Raise it in a tool to tell the model, in these words, that the call failed."""


class Tool(msgspec.Struct, frozen=True):
    """A function that a model may call. Made by `tool`."""

    spec: ToolSpec
    """The tool as a model sees it."""
    function: Callable[..., Any]
    arguments: type[msgspec.Struct]
    takes_context: bool
    needs_approval: NeedsApproval[Any] | None
    """None: its agent says."""
    on_crash: OnCrash | None
    """None: `report` where it may need approval, `retry` elsewhere."""
    timeout_s: float | None
    result_bytes_max: int = RESULT_BYTES_MAX
    overflow: Overflow = "error"
    """What becomes of a larger result: an error that the model reads, or an artifact and an excerpt."""

    @property
    def name(self) -> str:
        """What a model calls it by."""
        return self.spec.name

    def check_arguments(self, input: Any) -> None:
        """Raises `ToolError` naming what does not fit the signature."""
        self._convert(input)

    async def call(self, input: Any, context: ToolContext[Any]) -> Any:
        """Call it; the result as plain JSON. Raises `ToolError`, `TimeoutError` and what it raises."""
        values = msgspec.structs.asdict(self._convert(input))
        async with asyncio.timeout(self.timeout_s):
            result = await self._call(values, context)
        return await self.limit_size(result, context)

    async def limit_size(self, result: Any, context: ToolContext[Any]) -> Any:
        """A result as plain JSON, or what becomes of one that is too large. Raises `ToolError`."""
        raw, plain = _json(result)
        if len(raw) <= self.result_bytes_max:
            return plain
        if self.overflow == "error":
            raise ToolError(f"the result is larger than {self.result_bytes_max // 1024} KiB")
        excerpt = raw[: EXCERPT_CHARS * 4].decode(errors="ignore")[:EXCERPT_CHARS]
        summary = f"The result of {self.name}, {len(raw)} bytes"
        id = await context.emit_artifact(type="tool-result", name=self.name, data=plain, summary=summary)
        return {"artifactId": id, "sizeBytes": len(raw), "excerpt": excerpt}

    async def _call(self, values: dict[str, Any], context: ToolContext[Any]) -> Any:
        """An interrupted coroutine is cancelled; a thread is left to finish, and nobody waits for it."""
        if inspect.isasyncgenfunction(self.function):
            return await _last(self.function(*self._given(context), **values), context)
        if inspect.iscoroutinefunction(self.function):
            return await self.function(*self._given(context), **values)
        own = SyncToolContext(context, asyncio.get_running_loop())
        try:
            return await thread_calls.call_in_thread(
                self.name, partial(self.function, *self._given(own), **values)
            )
        except thread_calls.ThreadsExhausted:
            raise ToolError("too many calls are under way, try again later") from None

    def _given(self, context: object) -> tuple[object, ...]:
        return (context,) if self.takes_context else ()

    def _convert(self, input: Any) -> msgspec.Struct:
        try:
            return msgspec.convert(input, self.arguments)
        except msgspec.ValidationError as fault:
            raise ToolError(f"the arguments do not fit: {fault}") from fault


async def _last(results: AsyncGenerator[Any], context: ToolContext[Any]) -> Any:
    """What was yielded last; each one is shown as it comes."""
    result = None
    async with aclosing(results):  # also one that was cut off ends within its call
        async for result in results:
            _, plain = _json(result)
            if context.output is not None:
                await context.output.show_preliminary(plain)
    return result


def _json(result: Any) -> tuple[bytes, Any]:
    try:
        raw = msgspec.json.encode(result)
    except (TypeError, ValueError) as fault:
        raise ToolError("the result cannot be written as JSON") from fault
    plain = msgspec.json.decode(raw)
    if names_prototype(plain):
        raise ToolError("the result has a key that clients refuse (__proto__ or constructor.prototype)")
    return raw, plain


def require_sync_approval(whose: str, approval: Any) -> None:
    """Raises `Invalid` for one that is async: what it returns would count as a yes, whatever it says."""
    while isinstance(approval, partial):
        approval = approval.func
    if any(map(inspect.iscoroutinefunction, (approval, type(approval).__call__))):
        raise Invalid(f"{whose}: needs_approval is async, it must be a plain function")
