"""Runs by their own ids: started, watched, decided, stopped. Speaks the family of `/run/api/executions`."""

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec

from rejoin_client.answer import Answer, stream_of
from rejoin_client.chat import Message, WhenBusy, found, told, user_message
from rejoin_client.wire import Ask, Wire


class Pending(msgspec.Struct, frozen=True, rename="camel"):
    """A question that waits for an answer."""

    approval_id: str
    tool_call_id: str
    tool_name: str
    input: Any


class Usage(msgspec.Struct, frozen=True, rename="camel"):
    """Tokens."""

    input_tokens: int
    output_tokens: int


class Execution(msgspec.Struct, frozen=True, rename="camel"):
    """How a run stands. `status` is running, suspended, completed or failed; `state` tells queued from
    running, and cancelled from completed.
    """

    id: str
    status: str
    state: str
    conversation_id: str
    agent_id: str
    message_id: str
    created_at: datetime
    updated_at: datetime
    pending_approvals: list[Pending]
    usage: Usage
    error: str | None = None


class _Done(msgspec.Struct):
    success: bool
    interrupted: bool = False


class Executions:
    """`client.executions`."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def start(
        self,
        message: Message,
        *,
        session: str | None = None,
        message_id: str | None = None,
        when_busy: WhenBusy = "enqueue",
        operations: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """As `chat.send`. Who only wants it started keeps the answer's `run` and closes it."""
        body = {
            "conversationId": session or str(uuid.uuid4()),
            "messages": [user_message(message, message_id)],
            "whenBusy": when_busy,
        }
        said = told(headers, operations=operations)
        ask = Ask(method="POST", path="/run/api/executions", body=body, headers=said)
        return found(await Answer.begun(self._wire, ask))

    async def get(self, run: str) -> Execution:
        """How it stands, and what it waits for. Raises `NotFound`."""
        return await self._wire.call(Ask(method="GET", path=_at(run)), Execution)

    async def stream(
        self, run: str, *, cursor: str | None = None, follow: bool = False, operations: bool = False
    ) -> Answer:
        """Its events, all or those behind a cursor, whether it is over or not. Raises `NotFound`, `Gone`."""
        query = {"follow": "true"} if follow else {}
        said = told(None, operations=operations)
        ask = Ask(method="GET", path=stream_of(run), headers=said, query=query)
        return found(await Answer.begun(self._wire, ask, cursor))

    async def approve(self, run: str, call: str, *, approved: bool, reason: str | None = None) -> None:
        """Decide about a call; what follows is in the run's stream. Raises `NotFound`, `Conflict`."""
        verdict = {"approved": approved} | ({} if reason is None else {"reason": reason})
        path = f"{_at(run)}/approvals/{quote(call, safe='')}"
        await self._wire.call(Ask(method="POST", path=path, body=verdict), _Done)

    async def interrupt(self, run: str) -> bool:
        """Stop it; whether it was not over yet. Raises `NotFound`."""
        return (await self._wire.call(Ask(method="POST", path=f"{_at(run)}/interrupt"), _Done)).interrupted


def _at(run: str) -> str:
    return f"/run/api/executions/{quote(run, safe='')}"
