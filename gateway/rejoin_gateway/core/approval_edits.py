"""Arguments that a person changes while approving a call: what is taken, and what is refused. Pure."""

from typing import Any

import msgspec

from rejoin_adapters.store_types import ApprovalRequest
from rejoin_gateway.core.tool_outputs import schema_fault
from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.partial_json import names_prototype
from rejoin_protocol.limits import TOOL_INPUT_BYTES_MAX

_encode_canonically = msgspec.json.Encoder(order="deterministic").encode


def check_edit(
    request: ApprovalRequest | None, approved: bool, input: Any, pointer: str
) -> dict[str, Any] | None:
    """The changed arguments as they are stored; None if nothing is changed. `pointer` is theirs.

    Raises `Invalid` if the call's tool does not allow changes, if the arguments do not fit its schema (the
    pointer then names the field), if they are too large or would end the stream of a client that reads them,
    or if they come with a denial. A request that is unknown is left to the store, which refuses it.
    """
    if input is None or request is None or _is_same(input, request.input):
        return None
    if not approved:
        raise Invalid("a denied call does not run: changed arguments need `approved: true`", pointer)
    if request.edit_schema is None:
        raise Invalid(f"the arguments of {request.tool} cannot be changed: approve or deny the call", pointer)
    if not isinstance(input, dict):
        raise Invalid(f"the arguments of {request.tool} are an object", pointer)
    canonical = _encode_canonically(input)
    if len(canonical) > TOOL_INPUT_BYTES_MAX:
        most = TOOL_INPUT_BYTES_MAX
        raise Invalid(f"the arguments of a call have at most {most} bytes as JSON", pointer)
    if names_prototype(input):
        raise Invalid(
            f"the arguments of {request.tool} have a key that names a JavaScript prototype", pointer
        )
    fault = schema_fault(request.edit_schema, input)
    if fault is not None:
        raise Invalid(f"the arguments of {request.tool} do not fit: {fault.text}", pointer + fault.pointer)
    edited: dict[str, Any] = msgspec.json.decode(canonical)
    return edited


def _is_same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal. 1 is 1.0, since JavaScript writes both alike, but is not true."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)
