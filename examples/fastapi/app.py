"""A FastAPI application with Rejoin inside: its own routes, its own users, streams that can be rejoined."""

# ruff: noqa: FAST003 - the dependency takes the id from the path

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from rejoin_adapters.records import Owner
from rejoin_gateway.http import errors
from rejoin_protocol.errors import RejoinError, Unauthenticated
from rejoin_protocol.ids import TenantId, UserId

from rejoin import ChatSession, Rejoin, Stream, connect


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Rejoin]]:
    """One backend for all requests. The runners are processes of their own: `rejoin runner …`."""
    nats_url, database_url = os.environ["REJOIN_NATS_URL"], os.environ["REJOIN_DATABASE_URL"]
    async with connect(nats_url=nats_url, database_url=database_url) as rejoin:
        yield {"rejoin": rejoin}


app = FastAPI(lifespan=lifespan)


async def refused(_: Request, fault: Exception) -> Response:
    """What Rejoin refuses, as the problem that its own gateways answer with."""
    assert isinstance(fault, RejoinError)  # noqa: S101 - it is registered for these alone
    problem = errors.error_response(fault)
    body = problem.body if isinstance(problem.body, bytes) else b""
    return Response(body, problem.status, dict(problem.headers))


for kind in errors.MAPPED_ERRORS:
    app.add_exception_handler(kind, refused)


def conversation(id: str, request: Request, x_user: Annotated[str | None, Header()] = None) -> ChatSession:
    """The caller's conversation. Put your own login here: another user's is not found."""
    if x_user is None:
        raise Unauthenticated("say who you are: x-user")
    rejoin: Rejoin = request.state.rejoin
    return rejoin.agent("support", Owner(TenantId("default"), UserId(x_user))).session(id)


Caller = Annotated[ChatSession, Depends(conversation)]


class Said(BaseModel):
    """A message. With an `id` it may be sent twice, and is said once."""

    text: str
    id: str | None = None


class Decided(BaseModel):
    """What a person says about a call."""

    approved: bool


@app.get("/chats/{id}")
async def history(chat: Caller) -> dict[str, Any]:
    """The messages; and whether there is an answer to rejoin, which is not among them."""
    found = await chat.history()
    return {"messages": found.messages, "active": found.busy is not None}


@app.post("/chats/{id}")
async def say(chat: Caller, said: Said) -> Response:
    """Say something. Who stops reading stops nothing."""
    return streamed(await chat.send(said.text, key=said.id))


@app.get("/chats/{id}/stream")
async def rejoin(chat: Caller, last_event_id: Annotated[str | None, Header()] = None) -> Response:
    """Behind the last event, or the running answer from its first; 204 if nothing runs."""
    return streamed(await chat.stream(last_event_id))


@app.post("/chats/{id}/approvals/{approval}")
async def decide(chat: Caller, approval: str, decided: Decided) -> Response:
    """Decide, and read what follows; 204 while other decisions are open."""
    return streamed(await chat.approve(approval, approved=decided.approved))


@app.post("/chats/{id}/stop")
async def stop(chat: Caller) -> dict[str, bool]:
    """Stop the run, wherever it is."""
    return {"stopped": await chat.interrupt()}


def streamed(stream: Stream | None) -> Response:
    """The response to an answer."""
    return Response(status_code=204) if stream is None else StreamingResponse(stream, headers=stream.headers)
