"""`/api/webhooks`: the receivers that are told of a tenant's runs, and what was sent to them.

The handlers store; runners send (`rejoin_runner.worker.webhook_sender`). What receivers get is described in
the `webhooks` of `/openapi.json`. Audited by triggers.
"""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, get_args

import msgspec
from aiohttp import web
from msgspec import Meta

from rejoin_adapters.ports.webhooks import (
    ENDPOINTS_MAX,
    WEBHOOK_EVENTS,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
    WebhookState,
)
from rejoin_adapters.webhook_endpoints import WebhookEndpoints
from rejoin_gateway.api.shared.paging import LIMIT_MAX, parse_before_number, parse_limit
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.http.gateway_service import PRINCIPAL, SERVICE
from rejoin_gateway.http.request import decode_body
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import Route, RouteDoc
from rejoin_protocol.errors import Invalid, NotFound, Unavailable
from rejoin_protocol.limits import URL_CHARS_MAX
from rejoin_protocol.security.webhook_signature import message_id

DELIVERIES_DEFAULT = 50
WEBHOOK_STATES: tuple[WebhookState, ...] = get_args(WebhookState.__value__)


class NewWebhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A receiver. `url`: http or https, without credentials; `*`: the receivers that requests name for their
    runs. `events`: what it is told; all by default.
    """

    url: Annotated[str, Meta(min_length=1, max_length=URL_CHARS_MAX)]
    events: Annotated[list[WebhookEvent], Meta(min_length=1, max_length=len(WEBHOOK_EVENTS))] = msgspec.field(
        default_factory=lambda: list(WEBHOOK_EVENTS)
    )


class WebhookReceiver(msgspec.Struct, frozen=True, rename="camel"):
    """A receiver. `pending` and `failed`: its deliveries in these states. `disabled_at`: since when nothing
    is sent, because it has answered 410; a replay switches it on.
    """

    id: str
    url: str
    events: list[str]
    created_at: datetime
    disabled_at: datetime | None
    pending: int
    failed: int
    last_error: str | None


class AddedWebhook(WebhookReceiver, frozen=True, rename="camel"):
    """A new receiver. `secret`: signs what is sent to it. It is not shown again."""

    secret: str


class WebhookList(msgspec.Struct, frozen=True):
    """The tenant's receivers, oldest first."""

    webhooks: list[WebhookReceiver]


class SentWebhook(msgspec.Struct, frozen=True, rename="camel"):
    """A delivery. `id`: the header `webhook-id` of all its attempts. `due_at`: when a pending one is sent
    next. `run`, `session`: null for a test.
    """

    id: str
    event: str
    state: WebhookState
    attempts: int
    created_at: datetime
    due_at: datetime
    done_at: datetime | None
    run: str | None
    session: str | None
    error: str | None


class SentWebhooks(msgspec.Struct, frozen=True, omit_defaults=True):
    """Deliveries, newest first. `next`: `before` of the next page; absent on the last one."""

    deliveries: list[SentWebhook]
    next: str | None = None


class Replayed(msgspec.Struct, frozen=True):
    """How many failed deliveries are sent again."""

    replayed: int


async def list_webhooks(request: web.Request) -> web.StreamResponse:
    """The tenant's receivers."""
    endpoints = _endpoints(request)
    found = await endpoints.outbox.list(endpoints.tenant)
    return json_response(WebhookList([_receiver(one) for one in found]))


async def add_webhook(request: web.Request) -> web.StreamResponse:
    """Add a receiver. Raises `Invalid`, `Conflict`, `Limited`, `Unavailable` without keys for its secret."""
    endpoints, body = _endpoints(request), await decode_body(request, NewWebhook)
    if endpoints.sealer is None:
        raise Unavailable("this gateway cannot keep secrets: set REJOIN_CONTEXT_ENCRYPTION_KEYS")
    added, secret = await endpoints.add(body.url, body.events, request.app[SERVICE].backend.now())
    fields = msgspec.structs.asdict(_receiver(added))
    return json_response(AddedWebhook(**fields, secret=secret), HTTPStatus.CREATED)


async def remove_webhook(request: web.Request) -> web.StreamResponse:
    """Remove a receiver, and what was still to be sent to it. Raises `NotFound`."""
    endpoints = _endpoints(request)
    id = endpoints.check_id(request.match_info["id"])
    endpoints.require(id, found=await endpoints.outbox.remove(endpoints.tenant, id))
    return web.Response(status=HTTPStatus.NO_CONTENT)


async def list_deliveries(request: web.Request) -> web.StreamResponse:
    """What was sent to a receiver, and what is still to be sent. Raises `NotFound`, `Invalid`."""
    endpoints, limit = _endpoints(request), parse_limit(request, DELIVERIES_DEFAULT)
    before, state = parse_before_number(request), _parse_state(request)
    id = endpoints.check_id(request.match_info["id"])
    found = await endpoints.outbox.deliveries(
        endpoints.tenant, id, limit=limit + 1, before=before, state=state
    )
    endpoints.require(id, found=found is not None)
    page = list(found or ())[:limit]
    more = len(found or ()) > limit
    deliveries = [_sent(id, one) for one in page]
    return json_response(SentWebhooks(deliveries, str(page[-1].number) if more else None))


async def replay_webhook(request: web.Request) -> web.StreamResponse:
    """Send again what has failed, and switch the receiver on. Raises `NotFound`."""
    endpoints = _endpoints(request)
    id = endpoints.check_id(request.match_info["id"])
    count = await endpoints.outbox.replay(endpoints.tenant, id)
    endpoints.require(id, found=count is not None)
    return json_response(Replayed(count or 0))


def _endpoints(request: web.Request) -> WebhookEndpoints:
    """The tenant's endpoints. Raises `NotFound` for a credential of one user or agent."""
    principal, service = request[PRINCIPAL], request.app[SERVICE]
    if principal.owner.user is not None or principal.agent is not None:
        raise NotFound("webhooks are the tenant's: use a key without a user and without an agent")
    return service.webhooks(principal.owner.tenant)


def _parse_state(request: web.Request) -> WebhookState | None:
    text = request.query.get("state")
    if text is None:
        return None
    found = next((state for state in WEBHOOK_STATES if state == text), None)
    if found is None:
        raise Invalid(f"state is {', '.join(WEBHOOK_STATES)}")
    return found


def _receiver(one: WebhookEndpoint) -> WebhookReceiver:
    return WebhookReceiver(
        one.id,
        one.url,
        list(one.events),
        one.created_at,
        one.disabled_at,
        one.pending,
        one.failed,
        one.last_error,
    )


def _sent(endpoint: str, one: WebhookDelivery) -> SentWebhook:
    return SentWebhook(
        message_id(endpoint, one.number),
        one.event,
        one.state,
        one.attempts,
        one.created_at,
        one.due_at,
        one.done_at,
        one.run,
        one.session,
        one.error,
    )


WHOLE_TENANT = "Needs a credential of the whole tenant."
ROUTES = (
    Route(
        "GET",
        "/api/webhooks",
        list_webhooks,
        Scope.ADMIN,
        RouteDoc(
            "List webhooks",
            description=f"The receivers that are told of the tenant's runs. {WHOLE_TENANT}",
            responses={200: WebhookList},
            tag="webhooks",
            error_statuses=[404],
        ),
    ),
    Route(
        "POST",
        "/api/webhooks",
        add_webhook,
        Scope.ADMIN,
        RouteDoc(
            "Add a webhook",
            description="From now on the receiver is told of the tenant's runs. The response has the secret "
            f"that signs what it gets, this once. A tenant has at most {ENDPOINTS_MAX}. {WHOLE_TENANT}",
            body=NewWebhook,
            responses={201: AddedWebhook},
            tag="webhooks",
            error_statuses=[404, 409, 429],
            example={"url": "https://example.com/hook", "events": ["run.completed", "run.waiting"]},
        ),
    ),
    Route(
        "DELETE",
        "/api/webhooks/{id}",
        remove_webhook,
        Scope.ADMIN,
        RouteDoc(
            "Remove a webhook",
            description=f"What was still to be sent is not sent. {WHOLE_TENANT}",
            responses={204: None},
            tag="webhooks",
            error_statuses=[404],
        ),
    ),
    Route(
        "GET",
        "/api/webhooks/{id}/deliveries",
        list_deliveries,
        Scope.ADMIN,
        RouteDoc(
            "List deliveries",
            description="What was sent to a receiver and what is still to be sent, with the error of the "
            f"last attempt. Those that were delivered or have failed are kept for a week. {WHOLE_TENANT}",
            responses={200: SentWebhooks},
            query={
                "state": ("Only those in this state.", WebhookState.__value__),
                "limit": ("Entries on the page, at most.", Annotated[int, Meta(ge=1, le=LIMIT_MAX)]),
                "before": "`next` of the page before. Without it the first page is returned.",
            },
            tag="webhooks",
            error_statuses=[404],
        ),
    ),
    Route(
        "POST",
        "/api/webhooks/{id}/replay",
        replay_webhook,
        Scope.ADMIN,
        RouteDoc(
            "Send again what has failed",
            description="For another day, with the same `webhook-id`. Switches the receiver on. "
            f"{WHOLE_TENANT}",
            responses={200: Replayed},
            tag="webhooks",
            error_statuses=[404],
        ),
    ),
)
