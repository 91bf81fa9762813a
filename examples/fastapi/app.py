"""A FastAPI application with Rejoin inside: its own routes, its own users, streams that clients can
resume. Below `/support` it mounts an agent's ready-made routes instead.
"""

# ruff: noqa: FAST003 - the dependency takes the id from the path

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from rejoin import (
    ChatSession,
    Owner,
    Rejoin,
    RejoinError,
    Stream,
    TenantId,
    Unauthenticated,
    UserId,
    asgi,
    connect,
    error_response,
    load_settings,
)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Rejoin]]:
    """Connect once for all requests, with the variables REJOIN_… of a gateway.

    The runners are separate processes: `rejoin runner …`. An agent with a context needs the runners'
    REJOIN_CONTEXT_ENCRYPTION_KEYS here too.
    """
    async with connect(load_settings(os.environ)) as backend:
        yield {"backend": backend}


app = FastAPI(lifespan=lifespan)


@app.exception_handler(RejoinError)
async def respond_with_problem(_: Request, error: Exception) -> Response:
    """Turn Rejoin's errors into the responses of its own gateways (RFC 9457)."""
    assert isinstance(error, RejoinError)  # noqa: S101 - it is registered for these alone
    problem = error_response(error)
    return Response(problem.body, problem.status, dict(problem.headers))


def find_owner(user: str | None) -> Owner:
    """The user's sessions. Put your own authentication here. Sessions of other users are not found."""
    if user is None:
        raise Unauthenticated("send the user's name in the header x-user")
    return Owner(TenantId("default"), UserId(user))


def find_session(id: str, request: Request, x_user: Annotated[str | None, Header()] = None) -> ChatSession:
    """The user's session."""
    backend: Rejoin = request.state.backend
    return backend.agent("support", find_owner(x_user)).session(id)


Session = Annotated[ChatSession, Depends(find_session)]


class Message(BaseModel):
    """A message. A retry with the same `id` sends it once."""

    text: str
    id: str | None = None


class Decision(BaseModel):
    """A user's decision about a tool call."""

    approved: bool


@app.get("/chats/{id}")
async def read_history(session: Session) -> dict[str, Any]:
    """The stored messages, and whether an answer is being generated: resume its stream."""
    history = await session.history()
    return {"messages": history.messages, "active": history.active_run is not None}


@app.post("/chats/{id}")
async def send_message(session: Session, message: Message) -> Response:
    """Send a message and stream the answer. A client that disconnects does not stop the run."""
    return stream_response(await session.send(message.text, key=message.id))


@app.get("/chats/{id}/stream")
async def resume_stream(session: Session, last_event_id: Annotated[str | None, Header()] = None) -> Response:
    """Stream the answer after `Last-Event-ID`, or from its first event; 204 if no run is active."""
    return stream_response(await session.stream(last_event_id))


@app.post("/chats/{id}/approvals/{approval}")
async def decide(session: Session, approval: str, decision: Decision) -> Response:
    """Approve or deny a tool call and stream what follows; 204 while the run waits for more decisions."""
    return stream_response(await session.approve(approval, approved=decision.approved))


@app.post("/chats/{id}/stop")
async def stop(session: Session) -> dict[str, bool]:
    """Interrupt the active run."""
    return {"stopped": await session.interrupt()}


def stream_response(stream: Stream | None) -> Response:
    """A stream as a FastAPI response; 204 for None."""
    return Response(status_code=204) if stream is None else StreamingResponse(stream, headers=stream.headers)


# Ready-made: GET and POST /support/{session}, GET …/reconnect and POST …/interrupt, the session API's routes.
app.mount(
    "/support",
    asgi(
        lambda scope: scope["state"]["backend"],
        "support",
        owner=lambda scope: find_owner(Request(scope).headers.get("x-user")),
    ),
)
