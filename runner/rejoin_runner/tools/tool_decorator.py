"""`tool`: the decorator that makes a function a tool."""

import inspect
from collections.abc import Callable
from typing import Any, Concatenate, Protocol, overload

import msgspec

from rejoin_protocol.errors import Invalid
from rejoin_protocol.limits import EVENT_BYTES_MAX, TOOL_RESULT_BYTES_MAX
from rejoin_protocol.request_tools import TOOL_NAME
from rejoin_runner.models.model import ToolSpec
from rejoin_runner.tools.argument_schema import Signature, build_spec, read_signature
from rejoin_runner.tools.isolated_calls import Isolation, read_isolation
from rejoin_runner.tools.tool import (
    NeedsApproval,
    OnCrash,
    Overflow,
    Tool,
)
from rejoin_runner.tools.tool_context import SyncToolContext, ToolContext


class ToolDecorator(Protocol):
    """Makes a function a tool. A tool of `ToolContext[Shop]` is a `Tool[Shop]`."""

    @overload
    def __call__[**P](self, function: Callable[Concatenate[ToolContext[None], P], Any], /) -> Tool: ...
    @overload
    def __call__[**P](self, function: Callable[Concatenate[SyncToolContext[None], P], Any], /) -> Tool: ...
    @overload
    def __call__[C, **P](self, function: Callable[Concatenate[ToolContext[C], P], Any], /) -> Tool[C]: ...
    @overload
    def __call__[C, **P](self, function: Callable[Concatenate[SyncToolContext[C], P], Any], /) -> Tool[C]: ...
    @overload
    def __call__(self, function: Callable[..., Any], /) -> Tool: ...


@overload
def tool[**P](function: Callable[Concatenate[ToolContext[None], P], Any], /) -> Tool: ...
@overload
def tool[**P](function: Callable[Concatenate[SyncToolContext[None], P], Any], /) -> Tool: ...
@overload
def tool[C, **P](function: Callable[Concatenate[ToolContext[C], P], Any], /) -> Tool[C]: ...
@overload
def tool[C, **P](function: Callable[Concatenate[SyncToolContext[C], P], Any], /) -> Tool[C]: ...
@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    needs_approval: NeedsApproval[Any] | None = None,
    approval_edits: bool = False,
    on_crash: OnCrash | None = None,
    timeout_s: float | None = None,
    result_bytes_max: int = TOOL_RESULT_BYTES_MAX,
    overflow: Overflow = "error",
    isolate: bool | Isolation = False,
) -> ToolDecorator: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    needs_approval: NeedsApproval[Any] | None = None,
    approval_edits: bool = False,
    on_crash: OnCrash | None = None,
    timeout_s: float | None = None,
    result_bytes_max: int = TOOL_RESULT_BYTES_MAX,
    overflow: Overflow = "error",
    isolate: bool | Isolation = False,
) -> Tool | ToolDecorator:
    """Make a function a tool that a model may call. Used as `@tool` or `@tool(...)`.

    The annotations of the parameters become the tool's JSON schema. The docstring becomes the description
    that the model reads; a Google, NumPy or Sphinx section in it describes the parameters. A first parameter
    of type `ToolContext` gets the call's context and is not part of the schema.

    The function is one of:

    - `async def`: it runs in the event loop, and is cancelled when the run is interrupted or time is over.
    - `def`: it runs in a thread and takes a `SyncToolContext`. A thread cannot be stopped: after a timeout
      or an interrupt it goes on, and its result is ignored.
    - an async generator: each yielded value is shown as a preliminary result; the last one is the result.

    Args:
        function: The function, if the decorator is used without arguments.
        name: The tool's name, 1 to 64 letters, digits, `-` and `_`. Default: the function's name.
        needs_approval: Whether a person must approve a call: True, False, or a function of the arguments and
            the `ToolContext`, which may be async. A function that fails, or takes longer than 30 seconds,
            counts as True. Default: the agent's `needs_approval`.
        approval_edits: Whether the person who approves a call may change its arguments. Default: False.
        on_crash: What happens to a call that a crashed worker may have started: `retry` calls the tool
            again, `report` tells the model that the outcome is unknown. Default: `report` for tools that may
            need approval, `retry` for all others.
        timeout_s: Seconds that a call may take. Default: no limit.
        result_bytes_max: The largest result, in bytes of JSON. Default: 256 KiB.
        overflow: What happens to a larger result: `error` tells the model, `artifact` stores the result as
            an artifact and shows the model the beginning. Default: `error`.
        isolate: Whether each call gets a process of its own, with the default limits (True) or these. The
            process imports the function's module; the application's context must be picklable.

    Raises `Invalid` if the function has no docstring, if the name, an option or a parameter is not as
    described, or if a parameter's type cannot be written as JSON schema.
    """

    def make(function: Callable[..., Any]) -> Tool:
        tool_name = name or function.__name__
        isolation = read_isolation(tool_name, function, isolate)
        spec, signature = _read_declaration(tool_name, function, result_bytes_max)
        made = Tool(
            spec, function, *signature[:2], needs_approval, on_crash, timeout_s, result_bytes_max, overflow
        )
        return msgspec.structs.replace(
            made, context_type=signature.context_type, isolation=isolation, approval_edits=approval_edits
        )

    return make if function is None else make(function)


def _read_declaration(
    tool_name: str, function: Callable[..., Any], result_bytes_max: int
) -> tuple[ToolSpec, Signature]:
    docstring = inspect.getdoc(function) or ""
    if not docstring:
        raise Invalid(f"tool {tool_name} needs a docstring: the model reads it")
    check_tool_name(tool_name)
    if not 0 < result_bytes_max <= EVENT_BYTES_MAX // 2:
        raise Invalid(f"tool {tool_name}: result_bytes_max is 1 to {EVENT_BYTES_MAX // 2}")
    if inspect.isgeneratorfunction(function):
        raise Invalid(f"tool {tool_name} is a plain generator: make it `async def`")
    signature = read_signature(function, tool_name)
    return build_spec(tool_name, docstring, signature.arguments_type), signature


def check_tool_name(name: str) -> None:
    """Raises `Invalid` for a name that a model provider refuses."""
    if not TOOL_NAME.fullmatch(name):
        raise Invalid(f"tool {name}: a name has 1 to 64 letters, digits, - and _")
