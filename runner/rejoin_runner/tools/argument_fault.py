"""What is wrong with arguments that are no JSON object, so that a model can correct itself. Pure."""

import json
from json import JSONDecodeError
from typing import Any

from rejoin_protocol.events.partial_json import names_prototype

FAULT_EXCERPT_CHARS = 30
_UNFINISHED = ("true", "false", "null", "-1", "NaN")
_ESCAPE_CHARS = 6
"""Characters of the longest escape in a JSON text, `\\uXXXX`."""


def describe_fault(value: Any) -> str:
    """What is wrong with the input of a call: the raw text, or a JSON value that is no object."""
    if not isinstance(value, str):
        return f"the arguments are a JSON {_kind(value)}, not an object"
    try:
        parsed = json.loads(value, parse_constant=_refuse_constant)
    except JSONDecodeError as fault:
        return _describe_syntax(value, fault)
    except RecursionError:
        return "the arguments are nested too deeply"
    except ValueError as fault:
        return str(fault)
    if names_prototype(parsed):
        return "the arguments have a key that clients refuse (__proto__ or constructor.prototype)"
    return f"the arguments are a JSON {_kind(parsed)}, not an object"


def _describe_syntax(text: str, fault: JSONDecodeError) -> str:
    position, end = fault.pos, len(text.rstrip())
    rest = text[position:end]
    is_cut = (
        position >= end
        or fault.msg.startswith("Unterminated string")
        or any(word.startswith(rest) for word in _UNFINISHED)
        or ("escape" in fault.msg and end - position < _ESCAPE_CHARS)
    )
    end = end if is_cut else position
    before = text[max(0, end - FAULT_EXCERPT_CHARS) : end]
    if is_cut:
        return f"the arguments are not complete JSON: they end after {end} characters, at `{before}`"
    return f"the arguments are not JSON: {fault.msg} at character {end + 1}, behind `{before}`"


def _kind(value: Any) -> str:
    match value:
        case str():
            return "string"
        case list():
            return "array"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case None:
            return "null"
        case _:
            return type(value).__name__


def _refuse_constant(name: str) -> None:
    raise ValueError(f"the arguments are not JSON: there is no {name} in JSON")
