"""A person's answers to the questions of a session, in the forms in which clients name a question.

An answer is a part of a message in state `approval-responded`. It names the approval by `approval.id`, or the
call alone: by `toolCallId`, or by an id of the form `aitxt-<toolCallId>`, as the AI SDK makes it on servers.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from rejoin_adapters.store_types import Decision
from rejoin_gateway.core.message_input import ClientMessage, parse_decision, parse_reason
from rejoin_gateway.core.session import Session
from rejoin_gateway.core.tool_outputs import ToolOutput, parse_tool_outputs
from rejoin_protocol.errors import Invalid, NotFound
from rejoin_protocol.ids import ApprovalId, CallId

CALL_PREFIX = "aitxt-"
RESPONDED = "approval-responded"


class AnsweredCall(msgspec.Struct, frozen=True):
    """An answer. `approval` None: it names the call only."""

    approval: ApprovalId | None
    call: CallId | None
    approved: bool
    reason: str | None


def parse_answers(message: ClientMessage, pointer: str) -> list[AnsweredCall]:
    """The answers in a message. Raises `Invalid`. `pointer` is the message's."""
    return [
        _parse_answer(part, f"{pointer}/parts/{number}/approval")
        for number, part in enumerate(message.parts)
        if part.get("state") == RESPONDED
    ]


def without_answers(message: ClientMessage) -> ClientMessage:
    """The message without its answers."""
    parts = [part for part in message.parts if part.get("state") != RESPONDED]
    return msgspec.structs.replace(message, parts=parts)


def answers_before(messages: Sequence[ClientMessage], pointer: str) -> list[AnsweredCall]:
    """The answers in the assistant messages directly before the last message, which is the user's: a client
    that did not send them on their own sends them with the next message. `pointer` is the messages'.
    """
    answers: list[AnsweredCall] = []
    for number in range(len(messages) - 2, -1, -1):
        if messages[number].role != "assistant":
            break
        answers = parse_answers(messages[number], f"{pointer}/{number}") + answers
    return answers


def outputs_before(messages: Sequence[ClientMessage]) -> list[ToolOutput]:
    """The outputs in the assistant messages directly before the last message, as `answers_before`."""
    outputs: list[ToolOutput] = []
    for message in messages[-2::-1]:
        if message.role != "assistant":
            break
        outputs = parse_tool_outputs(message.parts) + outputs
    return outputs


def _parse_answer(part: dict[str, Any], pointer: str) -> AnsweredCall:
    approval, call = part.get("approval"), part.get("toolCallId")
    named = dict(approval) if isinstance(approval, dict) else {}
    id = named.get("id", named.get("approvalId"))
    if isinstance(id, str) and id.startswith(CALL_PREFIX):
        call, id = id.removeprefix(CALL_PREFIX), None
    if id is not None or not isinstance(call, str):
        decision = parse_decision(approval, pointer)
        call_id = CallId(call) if isinstance(call, str) else None
        return AnsweredCall(decision.approval, call_id, decision.approved, decision.reason)
    approved = named.get("approved")
    if not isinstance(approved, bool):
        raise Invalid("a decision needs `approved`, true or false", pointer)
    return AnsweredCall(None, CallId(call), approved, parse_reason(named.get("reason"), pointer))


async def to_decisions(session: Session, answers: Sequence[AnsweredCall]) -> list[Decision]:
    """The answers as decisions about approvals of the session. Raises `NotFound` for a call without one."""
    return [
        Decision(await _find_approval(session, answer), answer.approved, answer.reason) for answer in answers
    ]


async def open_decisions(session: Session, answers: Sequence[AnsweredCall]) -> list[Decision]:
    """As `to_decisions`, without the answers to questions that are not open: a client repeats old answers
    with its history.
    """
    if not answers:
        return []
    pending = await session.pending_approvals()
    by_call = {approval.request.call: approval.request.id for approval in pending}
    known = {approval.request.id for approval in pending}
    decisions = []
    for answer in answers:
        id = answer.approval or (None if answer.call is None else by_call.get(answer.call))
        if id in known:
            decisions.append(Decision(id, answer.approved, answer.reason))
    return decisions


async def _find_approval(session: Session, answer: AnsweredCall) -> ApprovalId:
    if answer.approval is not None:
        return answer.approval
    call = answer.call or CallId("")
    found = await session.find_call(call)
    if found is None:
        raise NotFound(f"call {call[:64]!r} does not wait for an approval")
    return found.request.id
