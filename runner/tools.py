"""Functions as tools: the decorator, the schema made of a signature, and what a tool is told.

Owns how a function becomes callable by a model and never when it is called. A tool's arguments are checked
against its signature before it runs; what it raises is told to the model, `ToolError` in its own words and
everything else by its type only, because an exception's text may hold what a user must not see.
"""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, Literal, get_type_hints, overload

import msgspec

from protocol.ids import CallId, RunId, SessionId
from protocol.partial_json import names_prototype
from runner.models.port import ToolSpec

RESULT_BYTES_MAX = 256 * 1024

type OnCrash = Literal["retry", "report"]
type NeedsApproval[C] = bool | Callable[[dict[str, Any], "ToolContext[C]"], bool]


class ToolError(Exception):
    """Raise it in a tool to tell the model, in these words, that the call failed."""


class ToolContext[C](msgspec.Struct, frozen=True):
    """What a tool knows besides its arguments. `context` is the application's own, validated."""

    run: RunId
    session: SessionId
    call: CallId
    context: C

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this call, and for no other call."""
        return f"{self.run}:{self.call}"


class Tool(msgspec.Struct, frozen=True):
    """A function that a model may call. Made by `tool`."""

    name: str
    description: str
    function: Callable[..., Any]
    arguments: type[msgspec.Struct]
    takes_context: bool
    needs_approval: NeedsApproval[Any] | None
    """None: its agent says."""
    on_crash: OnCrash | None
    """None: `report` where it may need approval, `retry` elsewhere."""
    timeout_s: float | None

    @property
    def spec(self) -> ToolSpec:
        """The tool as a model sees it."""
        schema = msgspec.json.schema(self.arguments)
        definitions = schema.pop("$defs")
        own = definitions.pop(self.arguments.__name__)
        own.pop("title", None)
        if definitions:
            own["$defs"] = definitions
        return ToolSpec(self.name, self.description, own)

    def check(self, input: Any) -> None:
        """Raises `ToolError` naming what does not fit the signature."""
        self._convert(input)

    async def run(self, input: Any, context: ToolContext[Any]) -> Any:
        """Call it; the result as plain JSON. Raises `ToolError`, `TimeoutError` and what it raises."""
        values = msgspec.structs.asdict(self._convert(input))
        given = (context,) if self.takes_context else ()
        async with asyncio.timeout(self.timeout_s):
            if inspect.iscoroutinefunction(self.function):
                result = await self.function(*given, **values)
            else:
                result = await asyncio.to_thread(self.function, *given, **values)
        return _json(result)

    def _convert(self, input: Any) -> msgspec.Struct:
        try:
            return msgspec.convert(input, self.arguments)
        except msgspec.ValidationError as fault:
            raise ToolError(f"the arguments do not fit: {fault}") from fault


def _json(result: Any) -> Any:
    try:
        text = msgspec.json.encode(result)
    except (TypeError, ValueError) as fault:
        raise ToolError("the result cannot be written as JSON") from fault
    if len(text) > RESULT_BYTES_MAX:
        raise ToolError(f"the result is larger than {RESULT_BYTES_MAX // 1024} KiB")
    plain = msgspec.json.decode(text)
    if names_prototype(plain):
        raise ToolError("the result has a key that clients refuse (__proto__ or constructor.prototype)")
    return plain


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    needs_approval: NeedsApproval[Any] | None = None,
    on_crash: OnCrash | None = None,
    timeout_s: float | None = None,
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    needs_approval: NeedsApproval[Any] | None = None,
    on_crash: OnCrash | None = None,
    timeout_s: float | None = None,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a function a tool. Its docstring is the model's description, its annotations are the schema.

    `needs_approval`: True, False, or a function of the arguments and the context; unsaid, the agent decides.
    `on_crash` says whether a call that a dead worker may have begun is made again (`retry`, the default) or
    reported to the model as of unknown outcome (`report`, the default for tools that need approval).
    """

    def make(function: Callable[..., Any]) -> Tool:
        description = inspect.getdoc(function)
        if not description:
            raise TypeError(f"tool {function.__name__} needs a docstring: the model reads it")
        arguments, takes_context = _arguments(function)
        return Tool(
            name or function.__name__,
            description,
            function,
            arguments,
            takes_context,
            needs_approval,
            on_crash,
            timeout_s,
        )

    return make if function is None else make(function)


def _arguments(function: Callable[..., Any]) -> tuple[type[msgspec.Struct], bool]:
    """The struct of a function's arguments, and whether its first parameter is a `ToolContext`."""
    hints = get_type_hints(function, include_extras=True)
    fields: list[Any] = []
    takes_context = False
    for position, parameter in enumerate(inspect.signature(function).parameters.values()):
        annotation = hints.get(parameter.name)
        if annotation is None:
            raise TypeError(f"tool {function.__name__}: parameter {parameter.name} needs a type")
        if position == 0 and getattr(annotation, "__origin__", annotation) is ToolContext:
            takes_context = True
        elif parameter.default is inspect.Parameter.empty:
            fields.append((parameter.name, annotation))
        else:
            fields.append((parameter.name, annotation, parameter.default))
    struct = msgspec.defstruct(
        f"{function.__name__}_arguments", fields, kw_only=True, forbid_unknown_fields=True
    )
    return struct, takes_context
