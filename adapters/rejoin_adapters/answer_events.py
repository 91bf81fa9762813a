"""The events that say in a run's log how a waiting call was answered. Pure.

A runner writes them when the run continues. Until then the answer is in the database alone, and gateways show
it by the same events. So readers see the same before and after.
"""

import msgspec
from msgspec import UNSET

from rejoin_adapters.store_types import Approval, Decision
from rejoin_protocol.events.chunks import (
    Chunk,
    ToolApprovalResponse,
    ToolInputAvailable,
    ToolOutputAvailable,
    ToolOutputError,
)
from rejoin_protocol.events.edited_input import EditedInput, with_edit
from rejoin_protocol.events.fold import DYNAMIC_TOOL, Part

APPROVAL_EXPIRED = "Nobody decided in time."
OUTPUT_EXPIRED = "The client did not answer in time."
CLIENT_FAILED = "the client's tool failed"
"""The error of a client's tool that gave no text."""


def final_decision(approval: Approval) -> Decision | None:
    """An approval's decision, made by a person or by its timeout. None if it is open."""
    if approval.decision is not None and approval.expired:
        reason = APPROVAL_EXPIRED if approval.request.kind == "approval" else OUTPUT_EXPIRED
        return msgspec.structs.replace(approval.decision, reason=reason)
    return approval.decision


def answer_events(approval: Approval, part: Part) -> list[Chunk]:
    """The events for an approval that is decided. `part`: its call, as the message has it."""
    decision = final_decision(approval)
    if decision is None:
        return []
    if approval.request.kind == "tool-output":
        return [output_event(approval, decision)]
    # The change comes first, so that the decision is in the log behind everything that belongs to it.
    changed = [] if decision.input is None else [edit_event(approval, decision, part)]
    return [*changed, response_event(decision)]


def edit_event(approval: Approval, decision: Decision, part: Part) -> ToolInputAvailable:
    """The call's input again, as the person has changed it."""
    request = approval.request
    edit = EditedInput(request.input, decision.by, approval.decided_at)
    return ToolInputAvailable(
        tool_call_id=request.call,
        tool_name=request.tool,
        input=decision.input,
        provider_metadata=with_edit(part.get("callProviderMetadata"), edit),
        dynamic=True if part["type"] == DYNAMIC_TOOL else UNSET,
    )


def response_event(decision: Decision) -> ToolApprovalResponse:
    """The decision, for clients that know AI SDK 7."""
    reason = UNSET if decision.reason is None else decision.reason
    return ToolApprovalResponse(approval_id=decision.approval, approved=decision.approved, reason=reason)


def output_event(approval: Approval, decision: Decision) -> ToolOutputAvailable | ToolOutputError:
    """The output of a client's tool, or its error."""
    call = approval.request.call
    if decision.approved:
        return ToolOutputAvailable(tool_call_id=call, output=decision.output)
    return ToolOutputError(tool_call_id=call, error_text=decision.reason or CLIENT_FAILED)
