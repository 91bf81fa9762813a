"""Rejoin inside of one's own application: the core without HTTP, and four routes to mount where one likes.

Owns the convenient forms of what `sessions` does: a text is a message, an answer is the bytes of a response.
It has no rules of its own, and it knows nobody: who asks is the application's business, and `owner` says it.
"""

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType
from rejoin_adapters.records import Decision, History, Owner, SessionSummary, SessionUsage, WhenBusy
from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.fold import UIMessage
from rejoin_protocol.ids import AgentName, ApprovalId, TenantId, agent_name, session_id
from rejoin_protocol.log import cursor as cursors
from rejoin_protocol.log.record import View

from rejoin_gateway.api import agent_sessions as family
from rejoin_gateway.app import GatewaySettings, open_application
from rejoin_gateway.auth.authenticator import ALL_SCOPES, Principal
from rejoin_gateway.core import message_input
from rejoin_gateway.core.agent_context import ContextInput
from rejoin_gateway.core.message_input import ClientMessage, new_message_id
from rejoin_gateway.core.session import Session
from rejoin_gateway.http.middleware import observe
from rejoin_gateway.http.response import stream_headers
from rejoin_gateway.http.routes import Handler, Route, RouteDoc, mount
from rejoin_gateway.http.service import PRINCIPAL, SERVICE, GatewayService
from rejoin_gateway.streaming.positions import AfterCursor, FromStart
from rejoin_gateway.streaming.replay import Replay

DEFAULT_OWNER = Owner(TenantId("default"))
"""Whose the sessions are if nobody says it: everybody's."""

type MessageInput = str | Sequence[dict[str, Any]] | UIMessage
"""A text, the parts of a message, or a whole UI message with its id."""
type Override = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]
"""Answers a request itself, or hands it on: `await proceed(request)`."""
type RouteName = Literal["history", "send", "reconnect", "interrupt"]


class Stream:
    """An answer as server-sent events. Iterate over it once; whoever stops listening stops nothing else.

    A broken iteration must break the response: a clean end would be read as a whole answer.
    """

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self.run: str = replay.run.id
        self.headers: Mapping[str, str] = stream_headers(replay)

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        async with self._replay.open() as frames, aclosing(frames):
            async for written in frames:
                yield written


class ChatSession(msgspec.Struct, frozen=True):
    """A session, whether it exists or not. Methods raise `rejoin_protocol.errors`.

    `operations`: with all that the agents do in detail. `ui`: the client's major version of the AI SDK.
    """

    session: Session

    async def send(
        self,
        message: MessageInput,
        *,
        when_busy: Literal["enqueue", "interrupt", "reject"] = "enqueue",
        context: Any = None,
        key: str | None = None,
        operations: bool = False,
        ui: int = 7,
    ) -> Stream:
        """Store a message and stream its answer. The same message id, or `key`, is the same request.

        `context` is what the agent's tools are told, for this run.
        """
        await self.session.check_agent()
        session = msgspec.structs.replace(self.session, brought=ContextInput(body=context))
        said = message_input.build_user_message(_message(message, key), "")
        view = _view(ui, operations=operations)
        return Stream(await session.send(said, view, when_busy=WhenBusy(when_busy), key=key))

    async def stream(
        self, cursor: str | None = None, *, follow: bool = False, operations: bool = False, ui: int = 7
    ) -> Stream | None:
        """The session's run, whole or behind a cursor; None if that is nowhere and nothing is running."""
        await self.session.check_agent()
        position = AfterCursor(cursors.parse(cursor)) if cursor else FromStart()
        replay = await self.session.stream(position, _view(ui, operations=operations), follow=follow)
        return None if replay is None else Stream(replay)

    async def approve(
        self,
        approval_id: str,
        *,
        approved: bool,
        reason: str | None = None,
        operations: bool = False,
        ui: int = 7,
    ) -> Stream | None:
        """Decide, and stream what follows; None while the run waits for other decisions."""
        await self.session.check_agent()
        decision = Decision(ApprovalId(approval_id), approved, reason)
        replay = await self.session.approve([decision], _view(ui, operations=operations))
        return None if replay is None else Stream(replay)

    async def history(self) -> History:
        """The stored messages; `busy` is the run whose answer is not among them yet."""
        return await self.session.history()

    async def interrupt(self) -> bool:
        """Stop the session's run, wherever it is; whether there was one."""
        await self.session.check_agent()
        return await self.session.interrupt()

    async def update(
        self,
        *,
        title: str | UnsetType | None = UNSET,
        metadata: Any = UNSET,
        last_message_id: str | UnsetType = UNSET,
    ) -> SessionSummary:
        """Rename the session, describe it, or drop what was said after a message."""
        return await family.changed(self.session, family.SessionUpdate(title, metadata, last_message_id))

    async def usage(self) -> SessionUsage:
        """What its runs have cost together, in tokens."""
        await family.existing(self.session)
        return await self.session.backend.threads.usage(self.session.owner, self.session.id)

    async def delete(self) -> None:
        """Delete it and everything that belongs to it."""
        await family.existing(self.session)
        await self.session.delete()


class AgentSessions(msgspec.Struct, frozen=True):
    """One agent's sessions with one owner."""

    service: GatewayService
    owner: Owner
    agent: AgentName

    def session(self, id: str) -> ChatSession:
        """One of them. Raises `Invalid` for an id that cannot be one."""
        return ChatSession(self.service.backend.agent(self.agent, self.owner).session(session_id(id)))


class Rejoin(msgspec.Struct, frozen=True):
    """The backend: `rejoin.agent("support").session("s1").send("Hello")`."""

    service: GatewayService

    def agent(self, name: str, owner: Owner = DEFAULT_OWNER) -> AgentSessions:
        """An agent, which some runner serves. Raises `Invalid` for a name that cannot be one."""
        return AgentSessions(self.service, owner, agent_name(name))


@asynccontextmanager
async def connect(
    *,
    nats_url: str,
    database_url: str,
    context_encryption_keys: str | None = None,
    database_pool_max: int = 10,
) -> AsyncIterator[Rejoin]:
    """The backend, for as long as the context. Broker and database are those of the runners, migrated.

    Raises `Unavailable` if they are away, `Invalid` if they are not ready.
    """
    settings = GatewaySettings(
        nats_url=nats_url,
        database_url=database_url,
        context_encryption_keys=context_encryption_keys,
        database_pool_max=database_pool_max,
        allow_anonymous=True,
    )
    async with open_application(settings) as app:
        yield Rejoin(app[SERVICE])


def routes(
    rejoin: Rejoin,
    agent: str,
    *,
    overrides: Mapping[RouteName, Override] | None = None,
    owner: Callable[[web.Request], Owner | Awaitable[Owner]] = lambda _: DEFAULT_OWNER,
) -> web.Application:
    """The four session routes of an agent, to be mounted with `app.add_subapp("/support", …)`.

    `GET /{session}` history, `POST /{session}` send, `GET /{session}/reconnect`, `POST /{session}/interrupt`.
    `owner` says who asks, or raises `Unauthenticated`. An override stands before its route, and before
    `owner`. How large a body may be is the application's `client_max_size`.
    """
    name, wanted = agent_name(agent), dict(overrides or {})

    def mounted(route: RouteName, handler: Handler) -> Handler:
        override = wanted.pop(route, None)

        async def proceed(request: web.Request) -> web.StreamResponse:
            found = owner(request)
            asker = await found if inspect.isawaitable(found) else found
            request[PRINCIPAL] = Principal(asker, ALL_SCOPES, "application", name)
            request.match_info["agent"] = name  # no path says it: the place of the mount does
            return await handler(request)

        async def overridden(request: web.Request) -> web.StreamResponse:
            return await override(request, proceed) if override is not None else await proceed(request)

        return overridden

    app = web.Application(middlewares=[observe])
    app[SERVICE] = rejoin.service
    four = (
        ("GET", "/{session}", mounted("history", family.get_history)),
        ("POST", "/{session}", mounted("send", family.send_message)),
        ("GET", "/{session}/reconnect", mounted("reconnect", family.reconnect)),
        ("POST", "/{session}/interrupt", mounted("interrupt", family.interrupt_session)),
    )
    if wanted:
        raise Invalid(f"there is no route {', '.join(sorted(wanted))} to override")
    mount(app, tuple(Route(method, path, handler, None, RouteDoc("")) for method, path, handler in four))
    app.on_shutdown.append(_stop)
    return app


async def _stop(app: web.Application) -> None:
    app[SERVICE].stop()


def _message(said: MessageInput, key: str | None) -> ClientMessage:
    match said:
        case str(text):
            return ClientMessage(new_message_id(key), "user", [{"type": "text", "text": text}])
        case Mapping():
            try:
                return msgspec.convert({"id": new_message_id(key), "role": "user", **said}, ClientMessage)
            except msgspec.ValidationError as fault:
                raise Invalid(str(fault)) from fault
        case _:
            return ClientMessage(new_message_id(key), "user", list(said))


def _view(ui: int, *, operations: bool) -> View:
    return View(operations=operations, v7=ui >= 7, v6=ui >= 6)  # noqa: PLR2004 - the versions' own numbers
