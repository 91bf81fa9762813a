"""Outputs of client tools: which parts of a message are some, and what is refused.

A client resends its whole message, with the outputs of server tools in it. Only the outputs of calls that
wait for one are taken; the others have no effect, whatever they say.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from rejoin_adapters.store_types import ApprovalRequest, Decision
from rejoin_gateway.core.session import Session
from rejoin_protocol.errors import Invalid, NotFound
from rejoin_protocol.events.partial_json import names_prototype
from rejoin_protocol.ids import CallId
from rejoin_protocol.limits import REASON_CHARS_MAX, TOOL_RESULT_BYTES_MAX

OUTPUT_KIND: Literal["tool-output"] = "tool-output"
FAULT_CHARS_MAX = 500


class ToolOutput(msgspec.Struct, frozen=True):
    """The output of a call, or the text of its error. `is_text`: the client's protocol has texts only, so
    that a tool which declares what it returns returns the JSON in the text. `pointer`: where the output is in
    the request's body.
    """

    call: CallId
    output: Any = None
    error: str | None = None
    is_text: bool = False
    pointer: str = ""

    def value_for(self, request: ApprovalRequest) -> Any:
        """The output as the tool declares it. Raises `Invalid` for a text that should be JSON."""
        if not self.is_text or request.output_schema is None:
            return self.output
        try:
            return msgspec.json.decode(self.output)
        except msgspec.DecodeError as fault:
            raise Invalid(f"the output of {request.tool} is JSON: {fault}") from fault


def parse_tool_outputs(parts: Sequence[dict[str, Any]]) -> list[ToolOutput]:
    """The outputs and errors in a message's parts, those of server tools too."""
    found = []
    for part in parts:
        match part:
            case {"toolCallId": str(call), "state": "output-available", "output": output}:
                if not part.get("preliminary"):
                    found.append(ToolOutput(CallId(call), output))
            case {"toolCallId": str(call), "state": "output-error", "errorText": str(error)}:
                found.append(ToolOutput(CallId(call), error=error))
    return found


async def open_outputs(session: Session, outputs: Sequence[ToolOutput]) -> list[Decision]:
    """The outputs for calls of the session that wait for one. Raises `Invalid` for one that does not fit."""
    if not outputs:
        return []
    waiting = {one.request.call: one.request for one in await session.pending_tool_outputs()}
    return [await checked_decision(session, waiting[one.call], one) for one in outputs if one.call in waiting]


async def require_outputs(session: Session, outputs: Sequence[ToolOutput]) -> list[Decision]:
    """The outputs, each for a call that waits or has waited for one. Raises `NotFound` and `Invalid`."""
    return [
        await checked_decision(session, await find_output_request(session, one.call), one) for one in outputs
    ]


async def repeated_outputs(session: Session, outputs: Sequence[ToolOutput]) -> list[Decision]:
    """The outputs of client tools that are stored already: the response to them was lost, perhaps."""
    decisions = []
    for one in outputs:
        stored = await session.find_call(one.call)
        if stored is not None and stored.request.kind == OUTPUT_KIND and stored.decision is not None:
            decisions.append(await checked_decision(session, stored.request, one))
    return decisions


async def find_output_request(session: Session, call: CallId) -> ApprovalRequest:
    """The newest request for the output of a call. Raises `NotFound`."""
    stored = await session.find_call(call)
    if stored is None or stored.request.kind != OUTPUT_KIND:
        raise NotFound(f"call {call[:64]!r} does not wait for an output")
    return stored.request


async def checked_decision(session: Session, request: ApprovalRequest, given: ToolOutput) -> Decision:
    """See `to_decision`."""
    return await session.backend.check(session.owner.tenant, to_decision, request, given)


def to_decision(request: ApprovalRequest, given: ToolOutput) -> Decision:
    """The output as it is stored. Raises `Invalid` if it is too large, is not what the tool declares or
    would end a reader's stream.
    """
    if given.error is not None:
        return Decision(request.id, approved=False, reason=given.error[:REASON_CHARS_MAX], kind=OUTPUT_KIND)
    output = given.value_for(request)
    size = len(msgspec.json.encode(output))
    if size > TOOL_RESULT_BYTES_MAX:
        raise Invalid(
            f"the output of {request.tool} has at most {TOOL_RESULT_BYTES_MAX} bytes as JSON, not {size}"
        )
    if names_prototype(output):
        raise Invalid(f"the output of {request.tool} has a key that names a JavaScript prototype")
    fault = None if request.output_schema is None else schema_fault(request.output_schema, output)
    if fault is not None:
        # Without the place of the output itself no client could find the field.
        pointer = given.pointer and given.pointer + fault.pointer
        raise Invalid(f"the output of {request.tool} does not fit: {fault.text}", pointer)
    return Decision(request.id, approved=True, kind=OUTPUT_KIND, output=output)


class SchemaFault(NamedTuple):
    """What is wrong with a value: a text with its place, and the place as a JSON pointer (RFC 6901)."""

    text: str
    pointer: str


def schema_fault(schema: dict[str, Any], value: Any) -> SchemaFault | None:
    """Why a value does not fit a JSON schema; None if it fits. Takes a second at the most: see
    `Backend.check`.
    """
    from rejoin_adapters.process import schema_check  # loads with the first value that has a schema

    try:
        fault = schema_check.find_mismatch(value, schema)
    except schema_check.CheckTimeout:
        return SchemaFault(f"checking it takes more than {schema_check.CHECK_S:g} s: send less", "")
    if fault is None:
        return None
    names = (str(name).replace("~", "~0").replace("/", "~1") for name in fault.absolute_path)
    text = f"{fault.message[:FAULT_CHARS_MAX]} at {fault.json_path}"
    return SchemaFault(text, "".join(f"/{name}" for name in names))
