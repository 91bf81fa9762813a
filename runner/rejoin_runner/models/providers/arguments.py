"""The arguments of a complete tool call. Pure.

An object that names a key twice has the last value, as all readers of JSON have it that providers and clients
use (`JSON.parse`, `json.loads`, pydantic). What a person approves and what the tool gets is the parsed value.
"""

import json
from typing import Any

import msgspec

from rejoin_protocol.events.partial_json import names_prototype
from rejoin_protocol.json_input import well_formed


def parse_arguments(args: object) -> Any:
    """The parsed arguments, or the raw text if they are not an object that clients accept."""
    if not isinstance(args, str):
        return args or {}
    if not args.strip():
        return {}
    args = well_formed(args)
    try:
        value = msgspec.json.decode(args)
    except msgspec.DecodeError:
        value = _parse_leniently(args)
    return value if isinstance(value, dict) and not names_prototype(value) else args


def _parse_leniently(args: str) -> Any:
    """The arguments if half a character in an escape is all that is wrong with them; else None."""
    try:
        value = json.loads(args, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return msgspec.json.decode(well_formed(json.dumps(value, ensure_ascii=False)))


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
