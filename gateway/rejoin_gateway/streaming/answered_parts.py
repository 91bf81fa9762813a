"""Shows in stored messages the answers that their runs do not have yet. Pure.

A run that waits for several answers gets them all together, when the last one is stored. Until then the
stored message still asks for each. A page that is loaded meanwhile would ask again, and get a conflict for
another answer.
"""

from collections.abc import Sequence

from rejoin_adapters.answer_events import answer_events
from rejoin_adapters.store_types import Approval, AskedCall
from rejoin_protocol.events.fold import MessageDict, Part, fold, is_tool

_WAITING = ("approval-requested", "input-available")


def has_waiting_calls(message: MessageDict) -> bool:
    """Whether a call in a stored message waits for an answer, or was cut off."""
    return message["role"] == "assistant" and any(map(_is_waiting, message["parts"]))


def with_answers(messages: Sequence[MessageDict], answered: Sequence[AskedCall]) -> list[MessageDict]:
    """The messages with the answers to their waiting calls: a decided call is `approval-responded`, one of a
    client's tool has its output. An `approval` with changed arguments has them as `input`, so that a client
    that sends its message back repeats the same answer.
    """
    return [_with_answers(message, answered) for message in messages]


def _with_answers(message: MessageDict, answered: Sequence[AskedCall]) -> MessageDict:
    for call in answered:
        at = find_waiting(message, call)
        if at is not None:
            message = _with_answer(message, at, call.approval)
    return message


def _is_waiting(part: Part) -> bool:
    return is_tool(part) and part.get("state") in _WAITING


def find_waiting(message: MessageDict, asked: AskedCall) -> int | None:
    """The index of the waiting call in its run's answer."""
    if message["id"] != asked.run.answer:
        return None
    request = asked.approval.request
    for at, part in enumerate(message["parts"]):
        is_asked = request.kind == "tool-output" or part.get("approval", {}).get("id") == request.id
        if _is_waiting(part) and part["toolCallId"] == request.call and is_asked:
            return at
    return None


def _with_answer(message: MessageDict, at: int, approval: Approval) -> MessageDict:
    message = fold(answer_events(approval, message["parts"][at]), message)
    if approval.decision is not None and approval.decision.input is not None:
        part = message["parts"][at]
        part["approval"] = {**part["approval"], "input": approval.decision.input}
    return message
