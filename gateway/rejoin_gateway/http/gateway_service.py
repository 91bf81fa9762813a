"""What the routes and middlewares of one gateway share, and the keys under which they find it.

`request.app[SERVICE]` is the service. `request[PRINCIPAL]` is the caller, set by the middleware for every
route that has a scope.
"""

import asyncio
import time
from collections.abc import Callable

import msgspec
from aiohttp import web

from rejoin_adapters.ports.audit import AuditLog
from rejoin_adapters.ports.run_counts import RunCounts
from rejoin_adapters.process.background import DetachedTasks
from rejoin_adapters.process.fair_share import FairShare
from rejoin_adapters.process.overload import MEMORY
from rejoin_adapters.webhook_endpoints import WebhookEndpoints
from rejoin_gateway.auth.authenticator import Authenticator, Principal
from rejoin_gateway.core.backend import Backend
from rejoin_gateway.http.cors import Cors
from rejoin_gateway.http.rate_limit import FailedLogins, OpenStreams, Rate, RateLimiter, TenantRates
from rejoin_gateway.http.request_body import LargeBodies
from rejoin_gateway.known_processes import KnownProcesses
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.ids import AgentName, TenantId
from rejoin_protocol.limits import HISTORY_PAGES_MAX

RESUME_LOOKUPS_MAX = 32
"""Resume requests of one gateway that look up their position at the same time. After a gateway restart a
thousand clients reconnect at once; without this bound each of them would wait too long for the database.
"""


class DisconnectPolicy(msgspec.Struct, frozen=True):
    """When the agent-chat routes cancel the run that they stream. `timeout_s` None: no time limit."""

    timeout_s: float | None = 120.0
    cancel_on_disconnect: bool = True


class GatewayService(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one gateway process."""

    backend: Backend
    authenticator: Authenticator
    default_agent: AgentName | None = None
    """Answers requests that name no agent."""
    openai_strict: bool = False
    """Whether a request of OpenAI's clients that sets something without effect is refused."""
    rate: Rate | None = None
    """Rate limit of each credential; None: no limit."""
    user_rate: Rate | None = None
    """Rate limit of each user, likewise."""
    failed_logins: FailedLogins = msgspec.field(default_factory=lambda: FailedLogins(None))
    open_streams: OpenStreams = msgspec.field(default_factory=OpenStreams)
    tenant_rates: TenantRates
    audit: AuditLog
    webhooks: Callable[[TenantId], WebhookEndpoints]
    """The endpoints of a tenant."""
    run_counts: RunCounts
    cors: Cors = Cors()
    disconnect_policy: DisconnectPolicy = DisconnectPolicy()
    rate_limiter: RateLimiter = msgspec.field(default_factory=RateLimiter)
    stopping: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    changes: DetachedTasks = msgspec.field(default_factory=DetachedTasks)
    """The requests that change something. They are carried out even if their clients leave."""
    streams: set[asyncio.Transport] = msgspec.field(default_factory=set)
    """Connections of the open streaming responses."""
    resume_slots: asyncio.Semaphore = msgspec.field(
        default_factory=lambda: asyncio.Semaphore(RESUME_LOOKUPS_MAX)
    )
    history_pages: FairShare = msgspec.field(default_factory=lambda: FairShare(HISTORY_PAGES_MAX))
    processes: KnownProcesses = msgspec.field(default_factory=lambda: KnownProcesses(time.monotonic))
    large_bodies: LargeBodies = msgspec.field(default_factory=LargeBodies)

    def stop(self) -> None:
        """Refuse new requests and break all streams.

        The connections are aborted: a client that sees a clean end takes the answer as complete; a client
        that sees a network error resumes at another gateway.
        """
        self.stopping.set()
        for transport in tuple(self.streams):
            transport.abort()


SERVICE: web.AppKey[GatewayService] = web.AppKey("service", GatewayService)
PRINCIPAL: web.RequestKey[Principal] = web.RequestKey("principal", Principal)
RESPONDING: web.RequestKey[bool] = web.RequestKey("responding", bool)
"""Set where the response begins."""
STREAM_ENDED: web.RequestKey[bool] = web.RequestKey("stream_ended", bool)
"""Set where the gateway itself ends a streaming response: it is complete, or the connection is broken."""
CLIENT_LEFT: web.RequestKey[bool] = web.RequestKey("client_left", bool)
"""Set if the client has left before that."""


OVERLOAD_RETRY_AFTER_S = 2
"""After this time work has ended, or a load balancer has chosen another gateway."""


def refuse_if_stopping(request: web.Request) -> None:
    """Raises `Unavailable` while the gateway stops, except for health checks."""
    if request.app[SERVICE].stopping.is_set() and not request.path.startswith("/health/"):
        raise Unavailable("this gateway is stopping", retry_after_s=1)


def refuse_if_overloaded(request: web.Request) -> None:
    """Raises `Unavailable` while the gateway is overloaded, except for health checks. A gateway
    without streams whose memory is full goes on: it does not get lighter by waiting.
    """
    service = request.app[SERVICE]
    reason = service.backend.metrics.overload.reason
    if reason == MEMORY and not service.streams:
        return
    if reason is not None and not request.path.startswith("/health/"):
        raise Unavailable(f"this gateway is overloaded ({reason})", OVERLOAD_RETRY_AFTER_S)


def begin_response(request: web.Request) -> None:
    """Call it where a request has done what it asks for and only its response is left, which may take long.

    Raises `ConnectionResetError` if the client has left; from here on its disconnect cancels the handler.
    """
    if request.get(CLIENT_LEFT):
        raise ConnectionResetError("the client has left")
    request[RESPONDING] = True
