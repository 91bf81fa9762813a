"""Client tools in OpenAI's words: functions in `tools`, the ids of their calls, their outputs. Pure.

OpenAI's clients keep no state: the request with the outputs names the answer that asked for them by nothing
but the ids of the calls. So such an id holds the run's id and the call's.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from rejoin_gateway.core.tool_outputs import ToolOutput
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import RUN_PREFIX, CallId, RunId
from rejoin_protocol.request_tools import RequestTool, check_bytes, parse_tool

WIRE_CALL_PREFIX = "call_"
_WIRE_CALL_ID = re.compile(rf"{WIRE_CALL_PREFIX}([0-9A-Za-z]{{26}}(?:-[0-9]{{1,3}})?)_(.+)", re.DOTALL)
OUTPUTS_MAX = 128
"""Outputs in one request. A model calls fewer tools in one step."""
FUNCTION = "function"


class SentOutput(msgspec.Struct, frozen=True):
    """The output of a call, its run and its place in the body."""

    run: RunId
    output: ToolOutput
    place: str


def wire_call_id(run: RunId, call: CallId) -> str:
    """The id of a call for OpenAI's clients."""
    return f"{WIRE_CALL_PREFIX}{run.removeprefix(RUN_PREFIX)}_{call}"


def parse_call_id(id: Any, place: str) -> tuple[RunId, CallId]:
    """The run and the call that an id names. Raises `Invalid` with the place for an id that is not ours."""
    match = _WIRE_CALL_ID.fullmatch(id) if isinstance(id, str) else None
    if match is None:
        raise Invalid("this is not the id of a call that was made here", place)
    return RunId(RUN_PREFIX + match[1]), CallId(match[2])


def parse_functions(tools: Sequence[Any], place: str) -> list[RequestTool]:
    """The tools of a request: `{type: function, function: {name, …}}` in chat completions, `{type: function,
    name, …}` in responses. Raises `Invalid`.
    """
    check_bytes(tools, place)
    return [parse_function(tool, f"{place}/{number}") for number, tool in enumerate(tools)]


def parse_function(tool: Any, place: str) -> RequestTool:
    """One of these. Raises `Invalid`."""
    if not isinstance(tool, dict) or tool.get("type") != FUNCTION:
        raise Invalid("only tools of type function are taken", f"{place}/type")
    fields = tool.get(FUNCTION, tool)
    if not isinstance(fields, Mapping):
        raise Invalid("a function is an object", f"{place}/{FUNCTION}")
    return parse_tool(fields.get("name"), fields, place)


def check_calls(calls: Any, place: str) -> None:
    """Check the `tool_calls` of an assistant message that a client sends back. Raises `Invalid` for a call
    that was not made here: nothing proves that it was made at all.
    """
    for number, call in enumerate(calls):
        parse_call_id(call.get("id") if isinstance(call, dict) else None, f"{place}/{number}/id")


def parse_output(call: Any, output: Any, place: str, call_field: str, output_field: str) -> SentOutput:
    """An output: a text, or text parts. Raises `Invalid`."""
    run, id = parse_call_id(call, f"{place}/{call_field}")
    match output:
        case None:
            text = ""
        case str():
            text = output
        case list() if all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in output):
            text = "".join(part["text"] for part in output)
        case _:
            raise Invalid("the output of a tool is a text", f"{place}/{output_field}")
    return SentOutput(run, ToolOutput(id, text, is_text=True), place)


def check_together(outputs: Sequence[SentOutput]) -> None:
    """Raises `Invalid` if the outputs are too many, or of calls of several runs."""
    if len(outputs) > OUTPUTS_MAX:
        raise Invalid(f"a request has at most {OUTPUTS_MAX} outputs of tools, not {len(outputs)}")
    for one in outputs:
        if one.run != outputs[0].run:
            raise Invalid("the outputs are of calls of different answers", one.place)
