"""`GET /api/approvals`: the tool calls of a tenant that wait for somebody, over all sessions.

A call is decided by the run API: `POST /run/api/executions/{run}/approvals/{call}`.
"""

from datetime import datetime
from typing import Annotated, Any, get_args

import msgspec
from aiohttp import web
from msgspec import Meta

from rejoin_adapters import page_tokens
from rejoin_adapters.console_types import CallFilter, UnansweredCall
from rejoin_adapters.page_tokens import NumberToken
from rejoin_adapters.store_types import RequestKind
from rejoin_gateway.api.shared.lookup import directory_of
from rejoin_gateway.api.shared.paging import LIMIT_MAX, parse_limit
from rejoin_gateway.auth.authenticator import Principal
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.http.gateway_service import PRINCIPAL
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import Route, RouteDoc
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import AgentName, ApprovalId, CallId, RunId, SessionId, UserId
from rejoin_protocol.limits import ID_CHARS_MAX

CALLS_DEFAULT = 50
KINDS: tuple[RequestKind, ...] = get_args(RequestKind.__value__)


class Deciders(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Who may answer a call: credentials with this scope, of this user (absent: only those without a user) or
    of no user. `you`: whether the credential of this request is one of them.
    """

    scope: Scope
    you: bool
    user_id: UserId | None = None


class ListedCall(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A tool call that waits. `kind`: for a person's decision, or for the output of a tool that a client
    runs. `since`: when it was asked; `expiresAt`: when it is denied. `inputSchema`: what the arguments must
    be if the person changes them; absent if they cannot be changed. `outputSchema`: what a client's output
    must be.
    """

    approval_id: ApprovalId
    kind: RequestKind
    run_id: RunId
    tool_call_id: CallId
    tool_name: str
    input: Any
    agent_id: AgentName
    session_id: SessionId
    since: datetime
    deciders: Deciders
    user_id: UserId | None = None
    expires_at: datetime | None = None
    input_schema: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None


class ListedCalls(msgspec.Struct, frozen=True, omit_defaults=True):
    """Calls, the first asked first. `next`: `before` of the next page; absent on the last one."""

    calls: list[ListedCall]
    next: str | None = None


async def list_approvals(request: web.Request) -> web.StreamResponse:
    """A page of the caller's waiting calls. Raises `Invalid` for a filter that cannot be read."""
    limit = parse_limit(request, CALLS_DEFAULT)
    found = await directory_of(request).waiting_calls(_parse_filter(request), limit + 1)
    calls = [_to_listed(call, request[PRINCIPAL]) for call in found[:limit]]
    token = page_tokens.encode(NumberToken(found[limit - 1].number)) if len(found) > limit else None
    return json_response(ListedCalls(calls, token))


def _parse_filter(request: web.Request) -> CallFilter:
    given = {name: text for name, text in request.query.items() if text}
    for name in ("agent", "user", "run"):
        if len(given.get(name, "")) > ID_CHARS_MAX:
            raise Invalid(f"{name} has more than {ID_CHARS_MAX} characters")
    kind = given.get("kind")
    if kind is not None and kind not in KINDS:
        raise Invalid(f"kind is one of {', '.join(KINDS)}")
    before = given.get("before")
    return CallFilter(
        kind=kind,
        agent=AgentName(given["agent"]) if "agent" in given else None,
        user=UserId(given["user"]) if "user" in given else None,
        run=RunId(given["run"]) if "run" in given else None,
        after=0 if before is None else page_tokens.decode(NumberToken, before).number,
    )


def _to_listed(call: UnansweredCall, principal: Principal) -> ListedCall:
    asked, run = call.approval.request, call.run
    scope = Scope.APPROVE if asked.kind == "approval" else Scope.CHAT
    return ListedCall(
        approval_id=asked.id,
        kind=asked.kind,
        run_id=run.id,
        tool_call_id=asked.call,
        tool_name=asked.tool,
        input=asked.input,
        agent_id=run.agent,
        session_id=run.session,
        since=call.since,
        # Who may list the call belongs to its user or to the whole tenant, so that only the scope can lack.
        deciders=Deciders(scope, scope in principal.scopes, run.user),
        user_id=run.user,
        expires_at=asked.expires_at,
        input_schema=asked.edit_schema,
        output_schema=asked.output_schema,
    )


ROUTES = (
    Route(
        "GET",
        "/api/approvals",
        list_approvals,
        Scope.ADMIN,
        RouteDoc(
            "List what waits for somebody",
            description="Use it to build an inbox: the tool calls of all sessions that wait for a person's "
            "decision, or for the output of a tool that a client runs; of the tenant, or of the credential's "
            "user or agent; the first asked first. Decide one with `POST "
            "/run/api/executions/{runId}/approvals/{toolCallId}`. The page `/approvals` shows the same.",
            responses={200: ListedCalls},
            query={
                "kind": ("Only calls that wait for this.", RequestKind),
                "agent": "Only calls of this agent.",
                "user": "Only calls in sessions of this user.",
                "run": "Only calls of this run.",
                "limit": ("Calls on the page, at most.", Annotated[int, Meta(ge=1, le=LIMIT_MAX)]),
                "before": "`next` of the page before. Without it the first page is returned.",
            },
            tag="operations",
        ),
    ),
)
