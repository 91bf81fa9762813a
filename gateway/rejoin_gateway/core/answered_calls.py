"""A person's answers to the questions of a session, in the forms in which clients name a question.

An answer is a part of a message in state `approval-responded`. It names the approval by `approval.id`, or the
call alone: by `toolCallId`, or by an id of the form `aitxt-<toolCallId>`, as the AI SDK makes it on servers.
Its `approval.input` is what the person has made of the arguments. The part's own `input` has no effect:
clients send it back with every answer, and JavaScript rounds large numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from rejoin_adapters.actor import current_actor
from rejoin_adapters.store_types import Approval, ApprovalRequest, Decision
from rejoin_gateway.core.approval_edits import check_edit
from rejoin_gateway.core.message_input import ClientMessage, parse_reason
from rejoin_gateway.core.session import Session
from rejoin_gateway.core.tool_outputs import ToolOutput, open_outputs, parse_tool_outputs, require_outputs
from rejoin_protocol.errors import Invalid, NotFound
from rejoin_protocol.ids import ApprovalId, CallId, RunId, run_of_approval

CALL_PREFIX = "aitxt-"
RESPONDED = "approval-responded"


class AnsweredCall(msgspec.Struct, frozen=True):
    """An answer. `approval` None: it names the call only. `input`: changed arguments; `pointer` is where they
    are in the request's body.
    """

    approval: ApprovalId | None
    call: CallId | None
    approved: bool
    reason: str | None = None
    input: Any = None
    pointer: str = ""


def parse_answers(message: ClientMessage, pointer: str) -> list[AnsweredCall]:
    """The answers in a message. Raises `Invalid`. `pointer` is the message's."""
    return [
        _parse_part(part, f"{pointer}/parts/{number}/approval")
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


def parse_answer(approval: Any, pointer: str) -> AnsweredCall:
    """One answer, `{id | approvalId, approved, reason?, input?}` at `pointer`. Raises `Invalid`."""
    match approval:
        case {"id": str(id), "approved": bool()} | {"approvalId": str(id), "approved": bool()}:
            return _build_answer(approval, ApprovalId(id), None, pointer)
        case _:
            raise Invalid("a decision needs an id and `approved`, true or false", pointer)


def _parse_part(part: dict[str, Any], pointer: str) -> AnsweredCall:
    approval, call = part.get("approval"), part.get("toolCallId")
    named = dict(approval) if isinstance(approval, dict) else {}
    id = named.get("id", named.get("approvalId"))
    if isinstance(id, str) and id.startswith(CALL_PREFIX):
        call, id = id.removeprefix(CALL_PREFIX), None
    call_id = CallId(call) if isinstance(call, str) else None
    if id is not None or call_id is None:
        return msgspec.structs.replace(parse_answer(approval, pointer), call=call_id)
    if not isinstance(named.get("approved"), bool):
        raise Invalid("a decision needs `approved`, true or false", pointer)
    return _build_answer(named, None, call_id, pointer)


def _build_answer(
    fields: dict[str, Any], approval: ApprovalId | None, call: CallId | None, pointer: str
) -> AnsweredCall:
    approved, reason = fields["approved"], parse_reason(fields.get("reason"), pointer)
    input = fields.get("input")
    return AnsweredCall(approval, call, approved, reason, input, "" if input is None else f"{pointer}/input")


async def find_requests(
    session: Session, answers: Sequence[AnsweredCall], outputs: Sequence[ToolOutput]
) -> list[Decision]:
    """Decisions and outputs, each for what asked for it. Raises `NotFound` and `Invalid`."""
    return [*await to_decisions(session, answers), *await require_outputs(session, outputs)]


async def find_open_requests(
    session: Session, answers: Sequence[AnsweredCall], outputs: Sequence[ToolOutput]
) -> list[Decision]:
    """Like `find_requests`, without answers to what is not open: clients repeat them with their history."""
    return [*await open_decisions(session, answers), *await open_outputs(session, outputs)]


async def store_by_run(session: Session, decisions: Sequence[Decision]) -> None:
    """Store decisions and outputs of several runs, those of one run together. Raises as `Session.decide`."""
    by_run: dict[RunId | None, list[Decision]] = {}
    for decision in decisions:
        by_run.setdefault(run_of_approval(decision.approval), []).append(decision)
    for together in by_run.values():
        await session.decide(together)


async def to_decisions(session: Session, answers: Sequence[AnsweredCall]) -> list[Decision]:
    """The answers as decisions about approvals of the session. Raises `NotFound` for a call without one, and
    `Invalid` for arguments that cannot be taken.
    """
    found = [msgspec.structs.replace(one, approval=await _find_approval(session, one)) for one in answers]
    edited = [one.approval for one in found if one.approval is not None and one.input is not None]
    asked: Sequence[Approval] = ()
    if edited:
        asked = await session.backend.store.pending_approvals(session.owner, session.id, edited)
    return await _build_decisions(session, found, _by_id(asked))


async def open_decisions(session: Session, answers: Sequence[AnsweredCall]) -> list[Decision]:
    """Like `to_decisions`, without the answers to questions that are not open: a client repeats old answers
    with its history.
    """
    if not answers:
        return []
    requests = _by_id(await session.pending_approvals())
    by_call = {request.call: id for id, request in requests.items()}
    found = []
    for answer in answers:
        id = answer.approval or (None if answer.call is None else by_call.get(answer.call))
        if id in requests:
            found.append(msgspec.structs.replace(answer, approval=id))
    return await _build_decisions(session, found, requests)


def _by_id(approvals: Sequence[Approval]) -> dict[ApprovalId, ApprovalRequest]:
    return {one.request.id: one.request for one in approvals}


async def _build_decisions(
    session: Session, answers: Sequence[AnsweredCall], requests: Mapping[ApprovalId, ApprovalRequest]
) -> list[Decision]:
    """`requests`: at least those whose arguments are changed, unless they are unknown."""
    by = _decider(session)
    return [
        Decision(
            answer.approval,
            answer.approved,
            answer.reason,
            input=await _check_edit(session, answer, requests.get(answer.approval)),
            by=by,
        )
        for answer in answers
        if answer.approval is not None
    ]


async def _check_edit(
    session: Session, answer: AnsweredCall, request: ApprovalRequest | None
) -> dict[str, Any] | None:
    if answer.input is None:
        return None
    edit = request, answer.approved, answer.input, answer.pointer
    return await session.backend.check(session.owner.tenant, check_edit, *edit)


def _decider(session: Session) -> str | None:
    """Who decides: the user, or else the credential."""
    actor = current_actor()
    return session.owner.user or (None if actor is None else actor.name)


async def _find_approval(session: Session, answer: AnsweredCall) -> ApprovalId:
    if answer.approval is not None:
        return answer.approval
    call = answer.call or CallId("")
    found = await session.find_call(call)
    if found is None:
        raise NotFound(f"call {call[:64]!r} does not wait for an approval")
    return found.request.id
