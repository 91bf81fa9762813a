"""`client.executions`: runs by their ids. Uses the API `/run/api/executions`."""

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec

from rejoin_client.answer import Answer, stream_path
from rejoin_client.chat import (
    Message,
    Tools,
    WhenBusy,
    answer_headers,
    build_decision,
    require_answer,
    tools_field,
    user_message,
)
from rejoin_client.transport import HttpTransport, Request


class Pending(msgspec.Struct, frozen=True, rename="camel"):
    """A tool call that waits for an approval. `input_schema`: what changed arguments must be; None: they
    cannot be changed.
    """

    approval_id: str
    tool_call_id: str
    tool_name: str
    input: Any
    input_schema: dict[str, Any] | None = None


class PendingOutput(msgspec.Struct, frozen=True, rename="camel"):
    """A call of a client tool that waits for its output. `output_schema`: what that must be."""

    tool_call_id: str
    tool_name: str
    input: Any
    output_schema: dict[str, Any] | None = None


class Usage(msgspec.Struct, frozen=True, rename="camel"):
    """Tokens that the run has used, and what they cost in US dollars; None if no price is known."""

    input_tokens: int
    output_tokens: int
    cost_usd: float | None = None


class Execution(msgspec.Struct, frozen=True, rename="camel"):
    """A run.

    `status` is running, suspended, completed or failed. `state` also distinguishes queued from
    running, and cancelled from completed. `error_code` is the kind of failure of a failed run.
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
    error_code: str | None = None
    pending_tool_outputs: list[PendingOutput] = []


class _Result(msgspec.Struct):
    success: bool
    interrupted: bool = False


class Executions:
    """Runs of all sessions."""

    def __init__(self, transport: HttpTransport) -> None:
        self._transport = transport

    async def start(
        self,
        message: Message,
        *,
        session: str | None = None,
        message_id: str | None = None,
        when_busy: WhenBusy = "enqueue",
        tools: Tools | None = None,
        operations: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Like `chat.send`. To start a run without reading it, keep its `run` and close the answer."""
        body = {
            "conversationId": session or str(uuid.uuid4()),
            "messages": [user_message(message, message_id)],
            "whenBusy": when_busy,
            **tools_field(tools),
        }
        all_headers = answer_headers(headers, operations=operations)
        request = Request(method="POST", path="/run/api/executions", body=body, headers=all_headers)
        return require_answer(await Answer.open(self._transport, request))

    async def get(self, run: str) -> Execution:
        """A run with its pending approvals. Raises `NotFound`."""
        return await self._transport.call(Request(method="GET", path=_path(run)), Execution)

    async def stream(
        self, run: str, *, cursor: str | None = None, follow: bool = False, operations: bool = False
    ) -> Answer:
        """A run's events, all or those after a cursor, whether the run has ended or not.

        `follow`: continue through approvals to the run's end. Raises `NotFound`, `Gone`.
        """
        query = {"follow": "true"} if follow else {}
        headers = answer_headers(None, operations=operations)
        request = Request(method="GET", path=stream_path(run), headers=headers, query=query)
        return require_answer(await Answer.open(self._transport, request, cursor))

    async def approve(
        self,
        run: str,
        call: str,
        *,
        approved: bool,
        reason: str | None = None,
        input: Mapping[str, Any] | None = None,
    ) -> None:
        """Decide the approval of a tool call. The run's stream continues. `input`: as in `chat.approve`.

        Raises `NotFound`, `Conflict`, `Invalid`.
        """
        decision = build_decision(approved=approved, reason=reason, input=input)
        path = f"{_path(run)}/approvals/{quote(call, safe='')}"
        await self._transport.call(Request(method="POST", path=path, body=decision), _Result)

    async def tool_output(self, run: str, call: str, output: Any = None, *, error: str | None = None) -> None:
        """Answer the call of a client tool with an output, or with the text of an error. The run's stream
        continues. Raises `NotFound`, `Conflict`, `Invalid`.
        """
        body = {"output": output} if error is None else {"errorText": error}
        path = f"{_path(run)}/tool-outputs/{quote(call, safe='')}"
        await self._transport.call(Request(method="POST", path=path, body=body), _Result)

    async def interrupt(self, run: str, *, last_part: Mapping[str, Any] | None = None) -> bool:
        """Interrupt a run. Returns False if it had already ended. Raises `NotFound`.

        `last_part`: the last part of the answer that the user has seen, with as much of its text. What is
        behind it is cut from the history.
        """
        request = Request(method="POST", path=f"{_path(run)}/interrupt", body={"lastPart": last_part})
        return (await self._transport.call(request, _Result)).interrupted


def _path(run: str) -> str:
    return f"/run/api/executions/{quote(run, safe='')}"
