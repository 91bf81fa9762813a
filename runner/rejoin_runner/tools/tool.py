"""A tool and how one call of it is made.

Owns the check of the arguments against the signature, the call, and the bounds of its result; never when a
tool is called. The model is told the text of a `ToolError`, and of every other exception only the type: its
text may hold what a user must not see.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, Generic, Literal

import msgspec
from typing_extensions import TypeVar

from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.partial_json import names_prototype
from rejoin_protocol.json_types import from_json, to_json
from rejoin_protocol.limits import TOOL_RESULT_BYTES_MAX
from rejoin_runner.models.model import ToolSpec
from rejoin_runner.tools import isolated_calls, thread_calls
from rejoin_runner.tools.isolated_calls import Isolation
from rejoin_runner.tools.tool_context import SyncToolContext, ToolContext
from rejoin_runner.tools.tool_error import ToolError

RESULT_EXCERPT_CHARS = 2_000
"""How many characters the model sees of a result that was stored as an artifact."""

type OnCrash = Literal["retry", "report"]
type Overflow = Literal["error", "artifact"]
type ApprovalRule[C] = Callable[[dict[str, Any], ToolContext[C]], bool | Awaitable[bool]]
"""A function of a call's arguments: whether a person must approve the call. It may be async."""
type NeedsApproval[C] = bool | ApprovalRule[C]


C_contra = TypeVar("C_contra", contravariant=True, default=Any)
"""The type of the request context that a tool reads. A tool that reads none fits every agent."""


class Tool(msgspec.Struct, Generic[C_contra], frozen=True):
    """A function that a model may call. Made by the decorator `tool`."""

    spec: ToolSpec
    """Name, description and JSON schema, as a model sees them."""
    function: Callable[..., Any]
    arguments_type: type[msgspec.Struct]
    """A struct with one field for each parameter."""
    takes_context: bool
    """Whether the first parameter is a `ToolContext` or a `SyncToolContext`."""
    needs_approval: NeedsApproval[Any] | None
    """None: the agent decides."""
    on_crash: OnCrash | None
    """None: `report` if a call may need approval, else `retry`."""
    timeout_s: float | None
    """For one call, in seconds. None: no limit."""
    result_bytes_max: int = TOOL_RESULT_BYTES_MAX
    """The size of a result as JSON."""
    overflow: Overflow = "error"
    """What happens to a larger result: an error for the model, or an artifact and an excerpt."""
    context_type: type | None = None
    """The context that it reads: `Shop` in `ToolContext[Shop]`. None: none, or any."""
    isolation: Isolation | None = None
    """The limits of the process that each call gets. None: it is called in the runner's process."""
    approval_edits: bool = False
    """Whether a person who approves a call may change its arguments."""

    def __post_init__(self) -> None:
        if self.approval_edits and self.needs_approval is False:
            raise Invalid(f"tool {self.name}: approval_edits needs an approval, and needs_approval is False")

    @property
    def name(self) -> str:
        """The name by which a model calls it."""
        return self.spec.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function as it was written: for tests, and for functions that share a tool's work.

        Nothing is checked. A function with a context takes it as the first argument.
        """
        return self.function(*args, **kwargs)

    def check_arguments(self, input: Any) -> None:
        """Raises `ToolError` if the arguments do not fit the signature; the text says where."""
        self._parse_arguments(input)

    async def call(self, input: Any, context: ToolContext[Any]) -> Any:
        """Call the function and return its result as JSON values.

        Raises `ToolError` if the arguments do not fit or the result cannot be used, `TimeoutError` after
        `timeout_s`, and what the function raises.
        """
        values = msgspec.structs.asdict(self._parse_arguments(input))
        async with asyncio.timeout(self.timeout_s):
            if self.isolation is not None:
                result = await isolated_calls.call_isolated(
                    self.name, self.function, self.isolation, input, context
                )
            else:
                result = await self._call_function(values, context)
        return await self.limit_size(result, context)

    async def limit_size(self, result: Any, context: ToolContext[Any]) -> Any:
        """The result as JSON values; a result larger than `result_bytes_max` is handled by `overflow`.

        Raises `ToolError` if the result is too large, or is not JSON.
        """
        raw, plain = _to_json(result)
        if len(raw) <= self.result_bytes_max:
            return plain
        if self.overflow == "error":
            raise ToolError(f"the result has {len(raw)} bytes as JSON, and at most {self.result_bytes_max}")
        excerpt = raw[: RESULT_EXCERPT_CHARS * 4].decode(errors="ignore")[:RESULT_EXCERPT_CHARS]
        summary = f"The result of {self.name}, {len(raw)} bytes"
        id = await context.emit_artifact(type="tool-result", name=self.name, data=plain, summary=summary)
        return {"artifactId": id, "sizeBytes": len(raw), "excerpt": excerpt}

    async def _call_function(self, values: dict[str, Any], context: ToolContext[Any]) -> Any:
        if inspect.isasyncgenfunction(self.function):
            return await _show_and_return_last(self.function(*self._positional(context), **values), context)
        if inspect.iscoroutinefunction(self.function):
            return await self.function(*self._positional(context), **values)
        sync_context = SyncToolContext(context, asyncio.get_running_loop())
        function = partial(self.function, *self._positional(sync_context), **values)
        try:
            return await thread_calls.call_in_thread(self.name, function)
        except thread_calls.ThreadsExhausted:
            raise ToolError("too many calls are under way, try again later") from None

    def _positional(self, context: object) -> tuple[object, ...]:
        return (context,) if self.takes_context else ()

    def _parse_arguments(self, input: Any) -> msgspec.Struct:
        try:
            return from_json(input, self.arguments_type)
        except msgspec.ValidationError as fault:
            raise ToolError(f"the arguments do not fit: {fault}") from fault


async def _show_and_return_last(results: AsyncGenerator[Any], context: ToolContext[Any]) -> Any:
    result = None
    async with aclosing(results):  # a generator that is interrupted must be closed within its call
        async for result in results:
            _, plain = _to_json(result)
            if context.output is not None:
                await context.output.show_preliminary(plain)
    return result


def _to_json(result: Any) -> tuple[bytes, Any]:
    """The result as JSON text and as JSON values. Raises `ToolError` if it is not JSON."""
    try:
        raw = to_json(result)
    except (TypeError, ValueError) as fault:
        raise ToolError("the result cannot be written as JSON") from fault
    plain = msgspec.json.decode(raw)
    if names_prototype(plain):
        raise ToolError("the result has a key that clients refuse (__proto__ or constructor.prototype)")
    return raw, plain
