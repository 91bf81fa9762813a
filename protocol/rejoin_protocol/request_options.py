"""Request options: what a request sets for its run alone, besides tools: instructions, sampling, the form of
the answer. Pure.

Owns their form and their bounds. Which of them an agent takes, and within which limits, is the agent's word:
see `rejoin_runner.agent.callers`. The schema of an answer comes from the request, as those of request
tools do.
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from rejoin_protocol.errors import Invalid
from rejoin_protocol.limits import (
    REQUEST_INSTRUCTIONS_BYTES_MAX,
    REQUEST_TOOLS_BYTES_MAX,
    STOP_CHARS_MAX,
    STOPS_MAX,
)
from rejoin_protocol.request_tools import TOOL_NAME, check_schema_size

type CallerOption = Literal["instructions", "sampling", "output", "tools"]
"""What an agent may let requests set."""


class AskedOutput(msgspec.Struct, frozen=True):
    """The form of an answer that a request asks for. `schema`: a JSON schema of type object."""

    name: str
    description: str
    schema: dict[str, Any]


class RequestOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """The options of one request. The defaults set nothing. `instructions`: the caller's text, which stands
    behind the agent's own. The agent limits the numbers. `has_openai_tools`: the request's tools are those of
    a client of OpenAI's APIs. `webhook_url`: who is told of the run, whatever the agent takes; the last
    field, because the trigger `queue_webhooks` reads it at the end of the JSON.
    """

    instructions: str = ""
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    parallel_tool_calls: bool | None = None
    output: AskedOutput | None = None
    has_openai_tools: bool = False
    webhook_url: str | None = None


def check_instructions(text: str, pointer: str) -> str:
    """The text. Raises `Invalid` with `pointer` if it is too large."""
    size = len(text.encode(errors="replace"))
    if size > REQUEST_INSTRUCTIONS_BYTES_MAX:
        raise Invalid(
            f"the instructions of a request have at most {REQUEST_INSTRUCTIONS_BYTES_MAX} bytes, not {size}",
            pointer,
        )
    return text


def check_stops(stop: str | Sequence[str], pointer: str) -> tuple[str, ...]:
    """The texts at which an answer stops. Raises `Invalid` if they are too many or too long."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(stops) > STOPS_MAX or any(not 0 < len(text) <= STOP_CHARS_MAX for text in stops):
        raise Invalid(f"expected at most {STOPS_MAX} texts of 1 to {STOP_CHARS_MAX} characters", pointer)
    return stops


def parse_output(name: Any, fields: Any, pointer: str) -> AskedOutput:
    """The form of an answer, from `{description?, schema}` under a name. Others of the fields are ignored.

    Raises `Invalid` with the place of what is wrong.
    """
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        raise Invalid("the name of a schema has 1 to 64 letters, digits, - and _", f"{pointer}/name")
    description, schema = fields.get("description"), fields.get("schema")
    if not isinstance(description, str | None):
        raise Invalid("the description of a schema is a text", f"{pointer}/description")
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise Invalid("expected a JSON schema of type object", f"{pointer}/schema")
    size = len(msgspec.json.encode(schema))
    if size > REQUEST_TOOLS_BYTES_MAX:
        raise Invalid(
            f"a schema has at most {REQUEST_TOOLS_BYTES_MAX} bytes as JSON, not {size}", f"{pointer}/schema"
        )
    check_schema_size(schema, f"{pointer}/schema")
    return AskedOutput(name, description or "", schema)
