"""The decorator that makes a function a tool."""

import inspect
import re
from collections.abc import Callable
from typing import Any, overload

from rejoin_protocol.errors import Invalid

from rejoin_runner.output.journal import EVENT_BYTES_MAX
from rejoin_runner.tools.argument_schema import build_arguments_type, build_spec
from rejoin_runner.tools.tool import (
    RESULT_BYTES_MAX,
    NeedsApproval,
    OnCrash,
    Overflow,
    Tool,
    require_sync_approval,
)

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


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
        arguments, takes_context = build_arguments_type(function, own)
        return Tool(
            build_spec(own, text, arguments),
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
