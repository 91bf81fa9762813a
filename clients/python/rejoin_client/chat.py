"""`client.chat`: send a message, approve a tool call, resume, stop. Uses the API of `useChat`, `/api/chat`.

The client gives each message its id before it sends it. A retry is therefore the same message.
"""

import secrets
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from rejoin_client.answer import Answer
from rejoin_client.errors import Malformed
from rejoin_client.transport import HttpTransport, Request

type WhenBusy = Literal["enqueue", "interrupt", "reject"]
type Message = str | Sequence[dict[str, Any]]
"""A text, or parts: `{"type": "text", "text"}`, `{"type": "file", "url", "mediaType", "filename"?}`."""
type Tools = Mapping[str, Mapping[str, Any]]
"""Client tools by name: `{"description"?, "parameters"?}`, with a JSON schema of type object."""


class _InterruptResult(msgspec.Struct):
    interrupted: bool


class Chat:
    """The chat of a session. `headers`: the fields of the agent's context."""

    def __init__(self, transport: HttpTransport) -> None:
        self._transport = transport

    async def send(
        self,
        session: str | None,
        message: Message,
        *,
        message_id: str | None = None,
        when_busy: WhenBusy = "enqueue",
        tools: Tools | None = None,
        operations: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a message and return its answer. `session` None: a new session.

        The same message with a `message_id` that was sent before is the same request: its answer comes again.
        `tools`: what this process can do for the message's run, if the agent takes tools from requests;
        answer the calls with `tool_output`. `operations`: the answer includes the events of `emit_operation`.
        """
        body = {
            "id": session or str(uuid.uuid4()),
            "messages": [user_message(message, message_id)],
            "trigger": "submit-message",
            "whenBusy": when_busy,
            **tools_field(tools),
        }
        all_headers = answer_headers(headers, operations=operations)
        request = Request(method="POST", path="/api/chat", body=body, headers=all_headers)
        return require_answer(await Answer.open(self._transport, request))

    async def steer(
        self,
        session: str,
        message: Message,
        *,
        message_id: str | None = None,
        operations: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Answer | None:
        """Send a message to the run that works: its model reads it at its next step.

        None: the message is stored. The answer of the run has it (`SteeringMessage`); if the run ends before,
        the message is the next turn, and `resume` returns its answer. An `Answer`: no run was at work, and
        the message is answered as any other. The same message with the same `message_id` is sent once.

        Raises `Refused` for a message with other parts than texts and files, and `Limited` if too many
        messages wait for the run's next step.
        """
        body = {
            "id": session,
            "messages": [user_message(message, message_id)],
            "trigger": "submit-message",
            "whenBusy": "steer",
        }
        all_headers = answer_headers(headers, operations=operations)
        request = Request(method="POST", path="/api/chat", body=body, headers=all_headers)
        return await Answer.open(self._transport, request)

    async def approve(
        self,
        session: str,
        approval_id: str,
        *,
        approved: bool,
        reason: str | None = None,
        input: Mapping[str, Any] | None = None,
        operations: bool = False,
    ) -> Answer | None:
        """Decide an approval, and return what follows; None while the run waits for other approvals.

        `input`: the arguments with which an approved call runs, if its tool allows that they are changed. The
        same decision again changes nothing. Raises `Conflict` for a different one, `Invalid` for an `input`
        that cannot be taken.
        """
        decision = {"id": approval_id, **build_decision(approved=approved, reason=reason, input=input)}
        part = {"type": "dynamic-tool", "state": "approval-responded", "approval": decision}
        return await self._answer(session, part, operations=operations)

    async def tool_output(
        self,
        session: str,
        call: str,
        output: Any = None,
        *,
        error: str | None = None,
        operations: bool = False,
    ) -> Answer | None:
        """Answer the call of a client tool with an output, or with the text of an error, and return what
        follows; None while the run waits for more.

        The same output again changes nothing. Raises `Conflict` for another one, `Invalid` for one that does
        not fit and for a call that does not wait.
        """
        given = {"state": "output-available", "output": output}
        if error is not None:
            given = {"state": "output-error", "errorText": error}
        part = {"type": "dynamic-tool", "toolName": "", "toolCallId": call, **given}
        return await self._answer(session, part, operations=operations)

    async def resume(
        self, session: str, *, cursor: str | None = None, follow: bool = False, operations: bool = False
    ) -> Answer | None:
        """The answer of the session's active run, from its first event. None if no run is active.

        In that case the history is complete. Load it again if you loaded it while a run was active.

        With a `cursor`, the events after it, also of a run that has ended. `follow`: continue through
        approvals to the run's end.
        """
        request = Request(
            method="GET",
            path=f"/api/chat/{quote(session, safe='')}/stream",
            headers=answer_headers(None, operations=operations),
            query={"follow": "true"} if follow else {},
        )
        return await Answer.open(self._transport, request, cursor)

    async def _answer(self, session: str, part: dict[str, Any], *, operations: bool) -> Answer | None:
        message = {"id": "answered", "role": "assistant", "parts": [part]}
        body = {"id": session, "messages": [message], "trigger": "submit-message"}
        headers = answer_headers(None, operations=operations)
        request = Request(method="POST", path="/api/chat", body=body, headers=headers)
        return await Answer.open(self._transport, request)

    async def stop(
        self, session: str, *, message_id: str | None = None, last_part: Mapping[str, Any] | None = None
    ) -> bool:
        """Interrupt the active run and those that wait for approvals. Returns whether there was one.

        `message_id`: only the run that answers this message, also if it arrives a few seconds later.
        `last_part`: the last part of the answer that the user has seen, with as much of its text. What is
        behind it is cut from the history.
        """
        body = {"messageId": message_id, "lastPart": last_part}
        path = f"/api/chat/{quote(session, safe='')}/stop"
        request = Request(method="POST", path=path, body=body)
        return (await self._transport.call(request, _InterruptResult)).interrupted


def build_decision(*, approved: bool, reason: str | None, input: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields of a decision; those that are None are left out."""
    fields = {"approved": approved, "reason": reason, "input": input}
    return {name: value for name, value in fields.items() if value is not None}


def user_message(message: Message, id: str | None) -> dict[str, Any]:
    """A user's UI message, with a new id if it has none."""
    parts = [{"type": "text", "text": message}] if isinstance(message, str) else list(message)
    return {"id": id or f"msg_{secrets.token_hex(12)}", "role": "user", "parts": parts}


def tools_field(tools: Tools | None) -> dict[str, Any]:
    """The field of a body with the client tools, if there are any."""
    return {"tools": tools} if tools else {}


def answer_headers(headers: Mapping[str, str] | None, *, operations: bool) -> Mapping[str, str]:
    """The headers of a request for an answer."""
    return {**(headers or {}), **({"x-emit-operations": "true"} if operations else {})}


def require_answer(answer: Answer | None) -> Answer:
    """The answer. Raises `Malformed` for None."""
    if answer is None:
        raise Malformed("the server answered without a stream")
    return answer
