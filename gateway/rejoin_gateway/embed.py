"""Rejoin inside another application: sessions as objects, and four aiohttp routes to mount.

A thin layer over `core.session`: it takes a text as a message and returns an answer as the bytes of a
response. The application authenticates its users and passes the `Owner` of each request.
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, overload

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from rejoin_adapters.store_types import (
    ApprovalRequest,
    History,
    Owner,
    SessionSummary,
    WhenBusy,
)
from rejoin_adapters.usage_types import SessionUsage
from rejoin_gateway.api.sessions import agent_sessions as family
from rejoin_gateway.api.sessions.send_body import (
    Decisions,
    NewMessage,
    parse_send_body,
)
from rejoin_gateway.api.shared.answers import require_replay
from rejoin_gateway.api.shared.client_tools import with_named_tools
from rejoin_gateway.app import open_application
from rejoin_gateway.auth.authenticator import ALL_SCOPES, Principal
from rejoin_gateway.core import message_input
from rejoin_gateway.core.agent_context import ContextInput
from rejoin_gateway.core.answered_calls import (
    AnsweredCall,
    find_open_requests,
    find_requests,
    store_by_run,
    to_decisions,
)
from rejoin_gateway.core.backend import Steered
from rejoin_gateway.core.message_input import new_message_id
from rejoin_gateway.core.session import AgentSession
from rejoin_gateway.core.tool_outputs import ToolOutput, require_outputs
from rejoin_gateway.http import errors
from rejoin_gateway.http.disconnect import finish_changes
from rejoin_gateway.http.gateway_service import PRINCIPAL, SERVICE, GatewayService
from rejoin_gateway.http.middleware import observe
from rejoin_gateway.http.routes import Handler, Route, RouteDoc, mount
from rejoin_gateway.library_stream import Stream
from rejoin_gateway.settings import GatewaySettings
from rejoin_gateway.streaming.client_view import client_view
from rejoin_gateway.streaming.positions import AfterCursor, FromStart
from rejoin_gateway.streaming.replay import Replay
from rejoin_protocol import json_input, settings
from rejoin_protocol.errors import Invalid, RejoinError
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.ids import AgentName, ApprovalId, CallId, MessageId, TenantId, agent_name, session_id
from rejoin_protocol.limits import BODY_BYTES_MAX
from rejoin_protocol.log import cursor as cursors
from rejoin_protocol.log.record import View

DEFAULT_OWNER = Owner(TenantId("default"))
"""The owner of all sessions in an application that does not distinguish users."""

type MessageInput = str | Sequence[str | dict[str, Any]] | MessageDict
"""A text, the parts of a message, or a complete UI message with its id. A list may also hold several
messages, which are one turn.
"""
type Override = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]
"""Responds itself, or calls the route: `await proceed(request)`."""
type RouteName = Literal[
    "history",
    "send",
    "reconnect",
    "interrupt",
    "session.get",
    "session.post",
    "session.reconnect",
    "session.interrupt",
]
_OTHER_NAMES: Mapping[str, RouteName] = {
    "session.get": "history",
    "session.post": "send",
    "session.reconnect": "reconnect",
    "session.interrupt": "interrupt",
}
"""The names of the routes in the JavaScript library whose `handleRequest` they are like."""


class ApprovalInput(TypedDict):
    """A decision as the session API takes it. Or use `ChatSession.approve`."""

    type: Literal["approval"]
    approval: "DecisionInput"


class DecisionInput(TypedDict):
    """The decision about the tool call of one approval."""

    approvalId: str
    approved: bool
    reason: NotRequired[str]
    input: NotRequired[dict[str, Any]]


class ChatSession(msgspec.Struct, frozen=True):
    """A session, whether it exists or not. Methods raise subclasses of `RejoinError`.

    `operations`: the stream includes operation events (model calls, tool calls, their cost). `ui`: major
    version of the client's AI SDK, 5, 6 or 7.
    """

    session: AgentSession

    @overload
    async def send(
        self,
        message: ApprovalInput | Sequence[ApprovalInput],
        *,
        operations: bool = False,
        ui: int | None = None,
    ) -> Stream | None: ...
    @overload
    async def send(
        self,
        message: MessageInput,
        *,
        when_busy: Literal["enqueue", "interrupt", "reject"] = "enqueue",
        context: Any = None,
        key: str | None = None,
        operations: bool = False,
        ui: int | None = None,
    ) -> Stream: ...
    async def send(
        self,
        message: MessageInput | ApprovalInput | Sequence[ApprovalInput],
        *,
        when_busy: Literal["enqueue", "interrupt", "reject"] = "enqueue",
        context: Any = None,
        key: str | None = None,
        operations: bool = False,
        ui: int | None = None,
    ) -> Stream | None:
        """Store a message and stream its answer, or store decisions and stream what follows; of a list with
        both the decisions first.

        It takes what the session API takes as a body. None: the run waits for more decisions. A message that
        has steered a run (`steer`) streams that run's answer.

        A message with the same id, or a request with the same `key`, starts no second run. `context` is
        passed to the agent's tools, for this run only. Raises `NotFound` for an agent that no runner has
        announced, `Conflict`, `Invalid`, `Limited`, `Unavailable`.
        """
        await self.session.check_agent()
        view = _view(ui, operations=operations)
        match parse_send_body(_as_body(message), new_message_id(key)):
            case Decisions() as given:
                replay = await self.session.approve(
                    await find_requests(self.session, given.answers, given.outputs), view
                )
                return None if replay is None else Stream(replay)
            case NewMessage(options=options) as body:
                busy = options.busy_policy if when_busy == "enqueue" else WhenBusy(when_busy)
                sent = await self._send_message(body, context, view, busy, key)
                return Stream(await require_replay(self.session, sent, view))

    async def steer(
        self,
        message: MessageInput,
        *,
        context: Any = None,
        key: str | None = None,
        operations: bool = False,
        ui: int | None = None,
    ) -> Stream | None:
        """Send a message to the run that works: its model reads it at its next step.

        None: the message is stored. The stream of the run has it as `steering-message`; if the run ends
        before, the message is the next turn. A `Stream`: no run was at work, and the message is answered as
        any other. The same message again changes nothing. `context` is for a turn of its own.

        Raises as `send`; `Invalid` also for a message with other parts than texts and files.
        """
        await self.session.check_agent()
        view = _view(ui, operations=operations)
        body = parse_send_body(_as_body(message), new_message_id(key))
        if isinstance(body, Decisions):
            raise Invalid("decisions steer no run: use `send`")
        sent = await self._send_message(body, context, view, WhenBusy.STEER, key)
        return None if isinstance(sent, Steered) else Stream(sent)

    async def _send_message(
        self, body: NewMessage, context: Any, view: View, when_busy: WhenBusy, key: str | None
    ) -> Replay | Steered:
        """Send the message of a body, after its decisions. Errors name the place in the body."""
        located = body.located
        sent_context = json_input.mend_value(body.context if context is None else context)
        session = await with_named_tools(self.session, json_input.mend_value(body.tools), body.tools_pointer)
        session = msgspec.structs.replace(session, context=ContextInput(body=sent_context))
        with message_input.relocate_errors(located.pointer, located.places):
            user_message = message_input.build_user_message(located.message, located.pointer)
            given = await find_requests(self.session, body.decisions.answers, body.decisions.outputs)
            await store_by_run(self.session, given)
            await store_by_run(
                self.session, await find_open_requests(self.session, body.answers, body.outputs)
            )
            return await session.send(
                user_message,
                view,
                pointer=located.pointer,
                when_busy=when_busy,
                seen=body.options.seen,
                key=key,
            )

    async def stream(
        self,
        cursor: str | None = None,
        *,
        follow: bool = False,
        operations: bool = False,
        ui: int | None = None,
    ) -> Stream | None:
        """Stream the session's run after `cursor`, or from its start.

        None if there is no cursor and no run is active. `follow`: the stream stays open while the run waits
        for approvals.
        """
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
        input: dict[str, Any] | None = None,
        by: str | None = None,
        operations: bool = False,
        ui: int | None = None,
    ) -> Stream | None:
        """Store a decision and stream what follows; None while the run waits for more decisions.

        `input`: the arguments with which an approved call runs, if its tool allows that they are changed.
        `by`: who decides, for the tool and the history. Default: the session's user.

        Raises `NotFound`, `Conflict` for another decision than the stored one, `Invalid` for an `input` that
        the tool does not allow or that does not fit its schema.
        """
        await self.session.check_agent()
        reason, input = json_input.mend_value(reason), json_input.mend_value(input)
        answer = AnsweredCall(ApprovalId(approval_id), None, approved, reason, input, "/input")
        [decision] = await to_decisions(self.session, [answer])
        decision = decision if by is None else msgspec.structs.replace(decision, by=by)
        replay = await self.session.approve([decision], _view(ui, operations=operations))
        return None if replay is None else Stream(replay)

    async def tool_output(
        self,
        call_id: str,
        output: Any = None,
        *,
        error: str | None = None,
        operations: bool = False,
        ui: int | None = None,
    ) -> Stream | None:
        """Store the output of a client's tool, or the text of its error, and stream what follows; None while
        the run waits for more.

        Raises `NotFound` for a call that never waited for an output, `Conflict` for another output than the
        stored one, `Invalid` for one that does not fit.
        """
        await self.session.check_agent()
        given = await require_outputs(self.session, [ToolOutput(CallId(call_id), output, error)])
        replay = await self.session.approve(given, _view(ui, operations=operations))
        return None if replay is None else Stream(replay)

    async def pending_approvals(self) -> Sequence[ApprovalRequest]:
        """The calls that wait for a decision, with tool and arguments, oldest first."""
        await self.session.check_agent()
        return [one.request for one in await self.session.pending_approvals()]

    async def fork(self, before_message_id: str, into: str) -> "ChatSession":
        """Copy the messages strictly before a message into a new session, which is returned.

        Raises `NotFound`, and `Conflict` if there is a session `into`.
        """
        await self.session.summary()
        await self.session.fork(MessageId(before_message_id), session_id(into))
        return ChatSession(msgspec.structs.replace(self.session, id=session_id(into)))

    async def history(self) -> History:
        """The stored messages. The answer of the `active_run` is not among them yet, nor are the messages
        that wait for its next step (`steering`).
        """
        return await self.session.history()

    async def interrupt(self) -> bool:
        """Interrupt the session's run. False if none was active."""
        await self.session.check_agent()
        return await self.session.interrupt()

    async def update(
        self,
        *,
        title: str | UnsetType | None = UNSET,
        metadata: Any = UNSET,
        last_message_id: str | UnsetType = UNSET,
    ) -> SessionSummary:
        """Change title or metadata. `last_message_id`: delete the messages after it."""
        last = UNSET if last_message_id is UNSET else MessageId(last_message_id)
        title, metadata = json_input.mend_value(title), json_input.mend_value(metadata)
        return await self.session.update(title=title, metadata=metadata, last_message=last)

    async def usage(self) -> SessionUsage:
        """Tokens of all runs of the session."""
        await self.session.summary()
        return await self.session.usage()

    async def delete(self) -> None:
        """Delete the session with its messages, runs and files."""
        await self.session.summary()
        await self.session.delete()


class AgentSessions(msgspec.Struct, frozen=True):
    """The sessions of one owner with one agent."""

    service: GatewayService
    owner: Owner
    agent: AgentName

    def session(self, id: str) -> ChatSession:
        """The session with this id. Raises `Invalid` for an id that no session can have."""
        return ChatSession(AgentSession(self.service.backend, self.owner, session_id(id), self.agent))


class Rejoin(msgspec.Struct, frozen=True):
    """A connected backend: `rejoin.agent("support").session("s1").send("Hello")`."""

    service: GatewayService

    def agent(self, name: str, owner: Owner = DEFAULT_OWNER) -> AgentSessions:
        """The sessions with an agent. Raises `Invalid` for a name that no agent can have."""
        return AgentSessions(self.service, owner, agent_name(name))


def load_settings(variables: Mapping[str, str]) -> GatewaySettings:
    """The settings of a gateway from the environment, which the application passes: `REJOIN_NATS_URL` etc.

    `REJOIN_…_FILE` names a file that holds the value. Raises `Invalid` for a missing or wrong setting.
    """
    return settings.load(GatewaySettings, variables, read=lambda path: Path(path).read_text(encoding="utf-8"))


@asynccontextmanager
async def connect(gateway_settings: GatewaySettings) -> AsyncIterator[Rejoin]:
    """Connect to the runners' broker and database, until the context ends.

    Takes the settings of a gateway: `GatewaySettings(nats_url=…, database_url=…)`, or `load_settings`. Agents
    with a context need `context_encryption_keys`, the same as the runners'. Settings of authentication and of
    the HTTP server have no effect: the application does both.

    Raises `Unavailable` if the broker or the database cannot be reached, `Invalid` if they are not migrated.
    """
    without_authentication = msgspec.structs.replace(
        gateway_settings, allow_anonymous=True, api_key_pepper=None, jwt_key=None, jwt_jwks_url=None
    )
    async with open_application(without_authentication) as app:
        yield Rejoin(app[SERVICE])


class ErrorResponse(msgspec.Struct, frozen=True):
    """A response: its status, headers and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def error_response(error: RejoinError) -> ErrorResponse:
    """The response of a gateway to an error: `application/problem+json` (RFC 9457).

    For the error handlers of other web frameworks. Raises `error` itself if its text is not meant for
    clients.
    """
    if not isinstance(error, errors.MAPPED_ERRORS):
        raise error
    response = errors.error_response(error)
    body = response.body if isinstance(response.body, bytes) else b""
    return ErrorResponse(response.status, dict(response.headers), body)


def routes(
    rejoin: Rejoin,
    agent: str,
    *,
    overrides: Mapping[RouteName, Override] | None = None,
    owner: Callable[[web.Request], Owner | Awaitable[Owner]] = lambda _: DEFAULT_OWNER,
) -> web.Application:
    """Four session routes of an agent, for `app.add_subapp("/support", …)`.

    `GET /{session}` history, `POST /{session}` send, `GET /{session}/reconnect`, `POST /{session}/interrupt`.
    `owner` returns the owner of a request, or raises `Unauthenticated`. An override runs before its route and
    before `owner`; its name may also be `session.get`, `session.post`, `session.reconnect` or
    `session.interrupt`. The application's `client_max_size` limits bodies. Raises `Invalid` for an unknown
    name, and for two overrides of one route.
    """
    name, unused_overrides = agent_name(agent), _by_route(overrides or {})

    def build_handler(route: RouteName, handler: Handler) -> Handler:
        override = unused_overrides.pop(route, None)

        async def proceed(request: web.Request) -> web.StreamResponse:
            result = owner(request)
            request_owner = await result if inspect.isawaitable(result) else result
            request[PRINCIPAL] = Principal(request_owner, ALL_SCOPES, "application", name)
            request.match_info["agent"] = name  # the handlers read it from the path, which here lacks it
            return await handler(request)

        async def handle(request: web.Request) -> web.StreamResponse:
            return await override(request, proceed) if override is not None else await proceed(request)

        return handle

    app = web.Application(middlewares=[finish_changes, observe], client_max_size=BODY_BYTES_MAX)
    app[SERVICE] = rejoin.service
    session_routes = (
        ("GET", "/{session}", build_handler("history", family.get_history)),
        ("POST", "/{session}", build_handler("send", family.send_message)),
        ("GET", "/{session}/reconnect", build_handler("reconnect", family.reconnect)),
        ("POST", "/{session}/interrupt", build_handler("interrupt", family.interrupt_session)),
    )
    if unused_overrides:
        raise Invalid(f"there is no route {', '.join(sorted(unused_overrides))} to override")
    mount(
        app,
        tuple(Route(method, path, handler, None, RouteDoc("")) for method, path, handler in session_routes),
    )
    app.on_shutdown.append(_stop)
    return app


def _by_route(overrides: Mapping[RouteName, Override]) -> dict[RouteName, Override]:
    by_route: dict[RouteName, Override] = {}
    for name, override in overrides.items():
        route = _OTHER_NAMES.get(name, name)
        if route in by_route:
            raise Invalid(f"the route {route} has two overrides")
        by_route[route] = override
    return by_route


async def _stop(app: web.Application) -> None:
    app[SERVICE].stop()


def _as_body(message: Any) -> Any:
    """What `parse_send_body` takes: lists and dicts, as JSON decodes to."""
    match message:
        case Mapping():
            return json_input.mend_value(dict(message))
        case Sequence() if not isinstance(message, str):
            return json_input.mend_value(list(message))
        case _:
            return json_input.mend_value(message)


def _view(ui: int | None, *, operations: bool) -> View:
    return client_view(None if ui is None else str(ui), operations=operations)
