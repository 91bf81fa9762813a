"""Functions as tools: the decorator, the schema made of a signature, and how a call is made.

Owns how a function becomes callable by a model and never when it is called. A tool's arguments are checked
against its signature before it runs; what it raises is told to the model, `ToolError` in its own words and
everything else by its type only, because an exception's text may hold what a user must not see.
"""

import asyncio
import inspect
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, Literal, get_type_hints, overload

import msgspec
from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.partial_json import names_prototype

from rejoin_runner.models.model import ToolSpec
from rejoin_runner.output.journal import EVENT_BYTES_MAX
from rejoin_runner.tools import thread_calls
from rejoin_runner.tools.tool_context import SyncToolContext, ToolContext

__all__ = ("NeedsApproval", "Tool", "ToolContext", "ToolError", "object_schema", "tool")

RESULT_BYTES_MAX = 256 * 1024
EXCERPT_CHARS = 2_000
"""What of a result that became an artifact the model still reads."""

type OnCrash = Literal["retry", "report"]
type Overflow = Literal["error", "artifact"]
type NeedsApproval[C] = bool | Callable[[dict[str, Any], ToolContext[C]], bool]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SECTION = re.compile(r"(?m)^(?:Args|Arguments|Parameters):[ \t]*\n((?:(?:[ \t]+.*)?(?:\n|$))*)")
_ARGUMENT = re.compile(r"\*{0,2}(\w+)(?:\s*\([^)]*\))?:\s*(.*)")


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


def object_schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON schema of a struct, itself at the top. Raises `TypeError` for what JSON does not have."""
    schema = msgspec.json.schema(kind)
    definitions = schema.pop("$defs")
    name = schema["$ref"].rsplit("/", 1)[-1]
    own: dict[str, Any] = definitions.pop(name)
    own.pop("title", None)
    if definitions:
        own["$defs"] = definitions
    return own


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    needs_approval: NeedsApproval[Any] | None = None,
    on_crash: OnCrash | None = None,
    timeout_s: float | None = None,
    result_bytes_max: int = RESULT_BYTES_MAX,
    overflow: Overflow = "error",
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    needs_approval: NeedsApproval[Any] | None = None,
    on_crash: OnCrash | None = None,
    timeout_s: float | None = None,
    result_bytes_max: int = RESULT_BYTES_MAX,
    overflow: Overflow = "error",
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a function a tool. Its docstring is the model's description, an `Args:` section in it describes
    the arguments, its annotations are the schema. A plain function runs in a thread of its own and takes a
    `SyncToolContext`; what an async generator yields is shown as it comes, and the last of it is the result.

    `needs_approval`: True, False, or a plain function (not `async def`) of the arguments and the context;
    unsaid, the agent decides.
    `on_crash` says whether a call that a dead worker may have begun is made again (`retry`, the default) or
    reported to the model as of unknown outcome (`report`, the default for tools that need approval).
    A result of more than `result_bytes_max` is, by `overflow`, an error or an artifact. Raises `Invalid`.
    """

    def make(function: Callable[..., Any]) -> Tool:
        own = name or function.__name__
        text = inspect.getdoc(function)
        if not text:
            raise Invalid(f"tool {own} needs a docstring: the model reads it")
        if not _NAME.fullmatch(own):
            raise Invalid(f"tool {own}: a name has 1 to 64 letters, digits, - and _")
        if not 0 < result_bytes_max <= EVENT_BYTES_MAX // 2:
            raise Invalid(f"tool {own}: result_bytes_max is 1 to {EVENT_BYTES_MAX // 2}")
        if inspect.isgeneratorfunction(function):
            raise Invalid(f"tool {own} is a plain generator: make it `async def`")
        require_sync_approval(f"tool {own}", needs_approval)
        arguments, takes_context = _arguments(function, own)
        return Tool(
            _spec(own, text, arguments),
            function,
            arguments,
            takes_context,
            needs_approval,
            on_crash,
            timeout_s,
            result_bytes_max,
            overflow,
        )

    return make if function is None else make(function)


def require_sync_approval(whose: str, approval: Any) -> None:
    """Raises `Invalid` for one that is async: what it returns would count as a yes, whatever it says."""
    while isinstance(approval, partial):
        approval = approval.func
    if any(map(inspect.iscoroutinefunction, (approval, type(approval).__call__))):
        raise Invalid(f"{whose}: needs_approval is async, it must be a plain function")


def _spec(own: str, text: str, arguments: type[msgspec.Struct]) -> ToolSpec:
    try:
        schema = object_schema(arguments)
    except TypeError as fault:
        reason = str(fault).splitlines()[0]
        raise Invalid(f"tool {own}: a parameter's type cannot be written as JSON ({reason})") from fault
    description, described = _described(text, set(arguments.__struct_fields__))
    for name, said in described.items():
        schema["properties"][name].setdefault("description", said)
    return ToolSpec(own, description, schema)


def _arguments(function: Callable[..., Any], own: str) -> tuple[type[msgspec.Struct], bool]:
    """The struct of a function's arguments, and whether its first parameter is a context."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as fault:
        raise Invalid(f"tool {own}: a parameter's type is not known where the tool is ({fault})") from fault
    fields: list[Any] = []
    takes_context = False
    for position, parameter in enumerate(inspect.signature(function).parameters.values()):
        annotation = hints.get(parameter.name)
        if annotation is None:
            raise Invalid(f"tool {own}: parameter {parameter.name} needs a type")
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise Invalid(f"tool {own}: parameter {parameter.name} cannot be given by name")
        kind = getattr(annotation, "__origin__", annotation)
        if position == 0 and kind in (ToolContext, SyncToolContext):
            plain = not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function))
            if plain is not (kind is SyncToolContext):
                wanted = "SyncToolContext" if plain else "ToolContext"
                raise Invalid(f"tool {own}: {parameter.name} must be a {wanted} here")
            takes_context = True
        elif parameter.default is inspect.Parameter.empty:
            fields.append((parameter.name, annotation))
        else:
            fields.append((parameter.name, annotation, parameter.default))
    try:
        struct = msgspec.defstruct(f"{own}_arguments", fields, kw_only=True, forbid_unknown_fields=True)
    except TypeError as fault:
        raise Invalid(f"tool {own}: {fault}") from fault
    return struct, takes_context


def _described(text: str, names: set[str]) -> tuple[str, dict[str, str]]:
    """A docstring without its `Args:` section, and what that says of the arguments."""
    section = _SECTION.search(text)
    if section is None:
        return text, {}
    described: dict[str, str] = {}
    last = None
    for line in inspect.cleandoc("\n" + section[1]).splitlines():
        match = _ARGUMENT.match(line)
        if match is not None and match[1] in names:
            last = match[1]
            described[last] = match[2].strip()
        elif last is not None and line.strip():
            described[last] = f"{described[last]} {line.strip()}".strip()
    rest = text[: section.start()] + text[section.end() :]
    return rest.strip(), described
