"""`GET /api/audit`: who has changed keys, decided approvals, deleted sessions and set limits."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from rejoin_gateway.api.shared.paging import LIMIT_MAX, parse_before_number, parse_limit
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.http.gateway_service import PRINCIPAL, SERVICE
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import Route, RouteDoc
from rejoin_protocol.errors import NotFound

LIMIT_DEFAULT = 50


class AuditEvent(msgspec.Struct, frozen=True, rename="camel"):
    """An entry. `actor`: the credential or operator. `peer`: the address it came from. `role`: the database's
    role. `target`: the id of what was changed.
    """

    number: int
    at: datetime
    actor: str
    peer: str | None
    role: str
    action: str
    target: str
    detail: dict[str, Any]


class AuditPage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Entries, newest first. `next`: `before` of the next page; absent on the last one."""

    entries: list[AuditEvent]
    next: str | None = None


async def list_audit(request: web.Request) -> web.StreamResponse:
    """The tenant's entries. Raises `NotFound` for a credential of one user or agent."""
    principal, limit = request[PRINCIPAL], parse_limit(request, LIMIT_DEFAULT)
    if principal.owner.user is not None or principal.agent is not None:
        raise NotFound("the audit log is the tenant's: use a key without a user and without an agent")
    found = await request.app[SERVICE].audit.list(
        principal.owner.tenant, limit=limit + 1, before=parse_before_number(request)
    )
    entries = [
        AuditEvent(one.number, one.at, one.actor, one.peer, one.role, one.action, one.target, one.detail)
        for one in found[:limit]
    ]
    more = len(found) > limit
    return json_response(AuditPage(entries, str(entries[-1].number) if more else None))


ROUTES = (
    Route(
        "GET",
        "/api/audit",
        list_audit,
        Scope.ADMIN,
        RouteDoc(
            "Read the audit log",
            description="Who has created, changed, revoked and deleted keys, decided approvals, deleted "
            "sessions and set limits of the tenant, when and from where. Needs a credential of the whole "
            "tenant.",
            responses={200: AuditPage},
            query={
                "limit": ("Entries on the page, at most.", Annotated[int, Meta(ge=1, le=LIMIT_MAX)]),
                "before": "`next` of the page before. Without it the first page is returned.",
            },
            tag="operations",
            error_statuses=[404],
        ),
    ),
)
