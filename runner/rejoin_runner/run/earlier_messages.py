"""The session's earlier messages as the agents of a run see them. Pure."""

import json
from collections.abc import Collection, Sequence
from typing import Any

from rejoin_protocol.events.fold import CONTEXT_KEY, PAGE_KEY, MessageDict
from rejoin_protocol.events.typed_output import show_output
from rejoin_protocol.ids import MessageId
from rejoin_runner.next_action import agent_stack

NEVER_RETURNED = "The run ended before the call returned. Whether it took effect is not known."
NEVER_DECIDED = "The call was not run: its run ended before anybody approved it."


def visible_history(history: Sequence[MessageDict], waiting: Collection[MessageId]) -> list[MessageDict]:
    """The messages without the work of delegated agents. `waiting`: the answers whose runs have not ended.
    A user's message ends with the page that the user was looking at, if the client has said it, and the
    newest one with what its application says.

    A call that still waits for a person or a client keeps its state, so that the model does not ask for it
    again. A question that nobody can answer any more, because its run has ended or the session is a fork, is
    denied; a call whose output cannot come any more has failed.
    """
    newest = max((number for number, one in enumerate(history) if one["role"] == "user"), default=-1)
    return [
        _close_open_calls(show_output(agent_stack.frame_view(message, None)), message["id"] in waiting)
        if message["role"] == "assistant"
        else _show_page(_show_context(message) if number == newest else message)
        for number, message in enumerate(history)
    ]


def _show_context(message: MessageDict) -> MessageDict:
    """The application's texts stand in the user's turn, quoted and on one line each, as the page does."""
    context = message.get(CONTEXT_KEY)
    if not isinstance(context, list):
        return message
    lines = [f"[{json.dumps(one['description'])}: {json.dumps(one['value'])}]" for one in context]
    text = "\n".join(["[The application says:]", *lines])
    return {**message, "parts": [*message["parts"], {"type": "text", "text": text}]}


def _show_page(message: MessageDict) -> MessageDict:
    """The page is the client's text, so it stands in the user's turn, quoted and on one line: it can neither
    give instructions nor look like them.
    """
    page = message.get(PAGE_KEY)
    if not isinstance(page, str) or not page.strip():
        return message
    part = {"type": "text", "text": f"[The user is looking at this page: {json.dumps(page)}]"}
    return {**message, "parts": [*message["parts"], part]}


def _close_open_calls(message: MessageDict, is_waiting: bool) -> MessageDict:
    if is_waiting:
        return message
    return {**message, "parts": [_end_if_open(part) for part in message["parts"]]}


def _end_if_open(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("state") == "input-available" and not part.get("providerExecuted"):
        return {**part, "state": "output-error", "errorText": NEVER_RETURNED}
    if part.get("state") != "approval-requested":
        return part
    approval = {**part.get("approval", {}), "approved": False, "reason": NEVER_DECIDED}
    return {**part, "state": "output-denied", "approval": approval}
