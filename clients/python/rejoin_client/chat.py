"""Conversations: say something, decide what was asked, come back, stop.

Speaks the family of `/api/chat` that `useChat` speaks. Every message has an id before it is sent, so that
sending it again is sending it once.
"""

import secrets
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from rejoin_client.answer import Answer
from rejoin_client.errors import Malformed
from rejoin_client.wire import Ask, Wire

type WhenBusy = Literal["enqueue", "interrupt", "reject"]
type Message = str | Sequence[dict[str, Any]]
"""A text, or parts: `{"type": "text", "text"}`, `{"type": "file", "url", "mediaType", "filename"?}`."""


class _Stopped(msgspec.Struct):
    interrupted: bool


class Chat:
    """`client.chat`. `headers` are what the agent wants to know besides the message."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def send(
        self,
        session: str | None,
        message: Message,
        *,
        message_id: str | None = None,
        when_busy: WhenBusy = "enqueue",
        operations: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Say something, in a new session if it is None, and read the answer.

        A `message_id` that was sent before, with the same message, is the same request: its answer comes
        again. `operations`: hear what the agents do, in detail.
        """
        body = {
            "id": session or str(uuid.uuid4()),
            "messages": [user_message(message, message_id)],
            "trigger": "submit-message",
            "whenBusy": when_busy,
        }
        ask = Ask(method="POST", path="/api/chat", body=body, headers=told(headers, operations=operations))
        return found(await Answer.begun(self._wire, ask))

    async def approve(
        self,
        session: str,
        approval_id: str,
        *,
        approved: bool,
        reason: str | None = None,
        operations: bool = False,
    ) -> Answer | None:
        """Decide, and read what follows; None while the run waits for other decisions. The same decision
        again changes nothing; another one raises `Conflict`.
        """
        decision: dict[str, Any] = {"id": approval_id, "approved": approved}
        if reason is not None:
            decision["reason"] = reason
        part = {"type": "dynamic-tool", "state": "approval-responded", "approval": decision}
        answered = {"id": "answered", "role": "assistant", "parts": [part]}
        body = {"id": session, "messages": [answered], "trigger": "submit-message"}
        ask = Ask(method="POST", path="/api/chat", body=body, headers=told(None, operations=operations))
        return await Answer.begun(self._wire, ask)

    async def resume(
        self, session: str, *, cursor: str | None = None, follow: bool = False, operations: bool = False
    ) -> Answer | None:
        """The session's running answer from its first event; None if nothing runs: the history has it all. If
        it was loaded while a run was active, load it again: the answer has come into it meanwhile.

        With a `cursor`, exactly what is behind it, whether the run is over or not. `follow`: through
        approvals, to the run's end.
        """
        ask = Ask(
            method="GET",
            path=f"/api/chat/{quote(session, safe='')}/stream",
            headers=told(None, operations=operations),
            query={"follow": "true"} if follow else {},
        )
        return await Answer.begun(self._wire, ask, cursor)

    async def stop(self, session: str) -> bool:
        """Stop the session's run; whether there was one. Doing it twice is doing it once."""
        ask = Ask(method="POST", path=f"/api/chat/{quote(session, safe='')}/stop")
        return (await self._wire.call(ask, _Stopped)).interrupted


def user_message(message: Message, id: str | None) -> dict[str, Any]:
    """A user's message as it is sent."""
    parts = [{"type": "text", "text": message}] if isinstance(message, str) else list(message)
    return {"id": id or f"msg_{secrets.token_hex(12)}", "role": "user", "parts": parts}


def told(headers: Mapping[str, str] | None, *, operations: bool) -> Mapping[str, str]:
    """The headers of a request for an answer."""
    return {**(headers or {}), **({"x-emit-operations": "true"} if operations else {})}


def found(answer: Answer | None) -> Answer:
    """An answer that there must be. Raises `Malformed`."""
    if answer is None:
        raise Malformed("the server answered without a stream")
    return answer
