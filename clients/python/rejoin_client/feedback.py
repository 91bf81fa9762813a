"""`client.feedback`: what somebody thinks of an answer. Uses the API `/run/v1/feedback`."""

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from rejoin_client.transport import HttpTransport, Request


class Feedback(msgspec.Struct, frozen=True, rename="camel"):
    """Feedback as it is stored. `message_id` None: on the whole session."""

    id: str
    conversation_id: str
    type: Literal["positive", "negative"]
    created_at: datetime
    message_id: str | None = None
    agent_id: str | None = None
    user_id: str | None = None
    details: str | None = None


class FeedbackPage(msgspec.Struct, frozen=True):
    """A page of feedback, newest first. `next`: pass it as `before` to get the next page."""

    data: Sequence[Feedback]
    next: str | None = None


class _Stored(msgspec.Struct, frozen=True):
    data: Feedback


class FeedbackBook:
    """The caller's feedback."""

    def __init__(self, transport: HttpTransport) -> None:
        self._transport = transport

    async def give(
        self,
        session: str,
        type: Literal["positive", "negative"],
        *,
        message_id: str | None = None,
        details: str | None = None,
    ) -> Feedback:
        """Store feedback on a message, or on the whole session. Raises `NotFound`."""
        fields = {
            "id": f"fb_{secrets.token_hex(12)}",  # a retry is the same feedback
            "conversationId": session,
            "type": type,
            "messageId": message_id,
            "details": details,
        }
        body = {name: value for name, value in fields.items() if value is not None}
        request = Request(method="POST", path="/run/v1/feedback", body=body)
        return (await self._transport.call(request, _Stored)).data

    async def list(self, session: str | None = None, *, before: str | None = None) -> FeedbackPage:
        """A page of the caller's feedback, of one session or of all."""
        wanted = {"conversationId": session, "before": before}
        query = {name: value for name, value in wanted.items() if value is not None}
        request = Request(method="GET", path="/run/v1/feedback", query=query)
        return await self._transport.call(request, FeedbackPage)
