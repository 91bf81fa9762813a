"""What a request of OpenAI's clients sets for its run, besides its messages: read, compared with what the
agent takes. Pure.

An agent says what it takes (`callers=…`). All other fields have no effect. Their names go into the header
`Rejoin-Ignored` of the response, in OpenAI's form of a place: `store`, `tools.2`. A strict gateway refuses
them instead: see `request_input.check_fields`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from rejoin_gateway.api.openai import tool_calls
from rejoin_gateway.api.openai.request_input import CONVERSATION, NEUTRAL, InputMessage
from rejoin_gateway.api.shared.client_tools import TOOLS
from rejoin_protocol.errors import Invalid
from rejoin_protocol.limits import OBJECT_KEYS_MAX, REQUEST_TOOLS_MAX, FreeObject, Name, Reason
from rejoin_protocol.request_options import (
    AskedOutput,
    CallerOption,
    RequestOptions,
    check_instructions,
    check_stops,
    parse_output,
)
from rejoin_protocol.request_tools import RequestTool
from rejoin_protocol.run_request import AgentEntry

IGNORED_HEADER = "Rejoin-Ignored"
IGNORED_HEADER_DOC: Mapping[str, str] = {
    IGNORED_HEADER: "The fields of the request that have no effect, by their places: `user, tools.2`. "
    "Missing if all have one."
}
IGNORED_MAX = 32
"""Names in the header; more are left out."""
_SHOWN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
OPTION_OF: Mapping[str, CallerOption] = {
    "instructions": "instructions",
    "temperature": "sampling",
    "top_p": "sampling",
    "stop": "sampling",
    "max_tokens": "sampling",
    "max_completion_tokens": "sampling",
    "max_output_tokens": "sampling",
    "response_format": "output",
    "text": "output",
    "tools": "tools",
    "tool_choice": "tools",
    "parallel_tool_calls": "tools",
}
"""The option that a field sets."""
ALWAYS_TAKEN = frozenset(
    {"model", "messages", "input", "stream", "stream_options", "background", "n"}
    | {"previous_response_id", "conversation"}
)
WITHOUT_EFFECT: Mapping[str, Sequence[Any]] = {
    **NEUTRAL,
    "metadata": ({},),
    "parallel_tool_calls": (True,),
    "temperature": (),  # the agent may have another one of its own
    "top_p": (),
}
"""Values that need not be named, because the same happens without them."""
ANY_OBJECT = AskedOutput("output", "", {"type": "object"})
TokenCount = Annotated[int, Meta(ge=1, le=2**31 - 1)]

type Labels = Annotated[dict[Name, Reason], Meta(max_length=OBJECT_KEYS_MAX)]
"""A client's own labels of a request."""


class CallerFields(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of both APIs that set something for the run of the request."""

    metadata: Labels | None = None
    tools: Annotated[list[FreeObject], Meta(max_length=REQUEST_TOOLS_MAX)] | None = None
    tool_choice: Name | FreeObject | None = None
    parallel_tool_calls: bool | None = None
    temperature: float | None = None
    top_p: float | None = None


class CallerRequest(msgspec.Struct, frozen=True):
    """What a request sets for its run. `tools`: None if it brings none. `ignored`: what has no effect, by its
    place in the body.
    """

    options: RequestOptions = RequestOptions()
    tools: Sequence[RequestTool] | None = None
    ignored: Sequence[str] = ()

    @property
    def headers(self) -> dict[str, str]:
        """The header of the response that says what has no effect."""
        shown = [name for name in dict.fromkeys(self.ignored) if _SHOWN_NAME.fullmatch(name)]
        return {IGNORED_HEADER: ", ".join(shown[:IGNORED_MAX])} if shown else {}


def read_options(
    fields: Mapping[str, Any], instructions: Sequence[InputMessage], entry: AgentEntry
) -> CallerRequest:
    """What a body sets. `instructions`: its messages of the roles system and developer.

    Raises `Invalid` for an option that the agent takes and that is not valid.
    """
    takes = set[CallerOption]([*entry.callers, *(("tools",) if entry.takes_tools else ())])
    ignored = [name for name, value in fields.items() if not _has_effect(name, value, takes)]
    options, tools = RequestOptions(), None
    if "instructions" in takes:
        options = msgspec.structs.replace(options, instructions=_join(fields, instructions))
    else:
        ignored += [_name_of(message.place) for message in instructions]
    if "sampling" in takes:
        options = msgspec.structs.replace(
            options,
            temperature=fields.get("temperature"),
            top_p=fields.get("top_p"),
            max_tokens=_most_tokens(fields),
            stop=check_stops(fields.get("stop") or (), "/stop"),
        )
    if "output" in takes:
        options = msgspec.structs.replace(options, output=_asked_output(fields))
    if "tools" in takes:
        tools, unknown = _asked_tools(fields)
        ignored += unknown
        options = msgspec.structs.replace(
            options,
            parallel_tool_calls=False if fields.get("parallel_tool_calls") is False else None,
            has_openai_tools=bool(tools),
        )
    return CallerRequest(options, tools, tuple(ignored + _ignored_inside(fields)))


def read_tools(fields: Mapping[str, Any], entry: AgentEntry) -> CallerRequest:
    """The tools of a request to a strict gateway. Raises `Invalid`, also if the agent takes none."""
    if not (given := fields.get("tools")):
        return CallerRequest()
    if not entry.takes_tools:
        raise Invalid("tools has no effect here: the agent has its own and takes no others", TOOLS)
    tools = tool_calls.parse_functions(given, TOOLS)
    return CallerRequest(tools=() if fields.get("tool_choice") == "none" else tools)


def _has_effect(name: str, value: Any, takes: set[CallerOption]) -> bool:
    """Whether what the field asks for happens."""
    if name in ALWAYS_TAKEN or value is None or value in WITHOUT_EFFECT.get(name, ()):
        return True
    if name == "metadata":
        return isinstance(value, dict) and set(value) == {CONVERSATION}
    if name == "tool_choice":
        return False  # `auto` and `none` are among those above
    return OPTION_OF.get(name) in takes


def _ignored_inside(fields: Mapping[str, Any]) -> list[str]:
    """The members without effect of a field that has one."""
    text = fields.get("text")
    verbosity = text.get("verbosity") if isinstance(text, dict) else None
    return [] if verbosity in (None, "medium") else ["text.verbosity"]


def _join(fields: Mapping[str, Any], messages: Sequence[InputMessage]) -> str:
    """All instructions of a request as one text. Raises `Invalid`."""
    texts = [(fields.get("instructions") or "", "/instructions")]
    for message in messages:
        for part, place in zip(message.parts, message.places, strict=True):
            if part["type"] != "text":
                raise Invalid("instructions are texts", place)
            texts.append((part["text"], place))
    return check_instructions("\n\n".join(text for text, _ in texts if text), texts[-1][1])


def _most_tokens(fields: Mapping[str, Any]) -> int | None:
    """The smallest of the limits, which have a new and an old name."""
    names = ("max_completion_tokens", "max_tokens", "max_output_tokens")
    return min((fields[name] for name in names if fields.get(name) is not None), default=None)


def _asked_output(fields: Mapping[str, Any]) -> AskedOutput | None:
    format, place = fields.get("response_format"), "/response_format"
    if isinstance(text := fields.get("text"), dict):
        format, place = text.get("format"), "/text/format"
    match format:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return ANY_OBJECT
        case {"type": "json_schema", "json_schema": dict() as named}:
            return parse_output(named.get("name"), named, f"{place}/json_schema")
        case {"type": "json_schema"}:
            return parse_output(format.get("name"), format, place)
        case _:
            raise Invalid("a format has the type text, json_object or json_schema", f"{place}/type")


def _asked_tools(fields: Mapping[str, Any]) -> tuple[Sequence[RequestTool] | None, list[str]]:
    """The functions of a request, and the places of the tools that are something else."""
    given = list(enumerate(fields.get("tools") or ()))
    functions = [(number, tool) for number, tool in given if tool.get("type") == tool_calls.FUNCTION]
    others = [f"tools.{number}" for number, tool in given if tool.get("type") != tool_calls.FUNCTION]
    if not functions:
        return None, others
    tools = [tool_calls.parse_function(tool, f"{TOOLS}/{number}") for number, tool in functions]
    return () if fields.get("tool_choice") == "none" else tools, others


def _name_of(place: str) -> str:
    """A place in the body as OpenAI writes it."""
    return place.removesuffix("/content").lstrip("/").replace("/", ".")
