"""Rate limits in this process's memory: the generic cell rate algorithm (GCRA, ITU-T I.371).

Each gateway counts its own requests, so n gateways allow up to n times the rate. Limits that must be exact
over all gateways are counted in the database: runs per tenant by `check_limits` in
`migrations/0003_requests.sql`. Clocks are arguments.
"""

from collections.abc import Awaitable, Callable

import msgspec
import structlog
from cachetools import LRUCache

from rejoin_protocol.errors import Unavailable
from rejoin_protocol.ids import TenantId

log = structlog.get_logger("rejoin.limits")

NAMES_MAX = 100_000
TENANT_RATE_TTL_S = 10.0
"""A change of a tenant's own rate takes effect within this time."""


class Rate(msgspec.Struct, frozen=True):
    """`count` requests in `period_s`, with a burst of `count` after a pause."""

    count: int
    period_s: float = 60.0


class RateLimiter:
    """One GCRA state for each name. Beyond `names_max` it drops the least recently used names."""

    def __init__(self, names_max: int = NAMES_MAX) -> None:
        self._due_s: LRUCache[str, float] = LRUCache(names_max)

    def take(self, name: str, rate: Rate, now_s: float) -> float:
        """0 if the request is allowed, and it counts; else seconds until one is, and it does not count."""
        spacing_s = rate.period_s / rate.count
        due_s = max(self._due_s.get(name, now_s), now_s)
        wait_s = due_s - now_s - (rate.period_s - spacing_s)
        if wait_s > 0:
            return wait_s
        self._due_s[name] = due_s + spacing_s
        return 0.0


def per_minute(count: int | None) -> Rate | None:
    """The rate of `count` requests a minute; None for no limit."""
    return None if count is None else Rate(count)


class TenantRates:
    """The rate of each tenant: its own, which `find` returns in requests a minute, or else `default`.

    No plain TTL cache: an expired rate stays in use while it is looked up, so concurrent requests do not
    wait, and while the database is unavailable, so an outage lifts no limit.
    """

    def __init__(
        self,
        default: Rate | None,
        find: Callable[[TenantId], Awaitable[int | None]],
        names_max: int = NAMES_MAX,
    ) -> None:
        self._default = default
        self._find = find
        self._known: LRUCache[TenantId, tuple[int | None, float]] = LRUCache(names_max)

    async def rate_of(self, tenant: TenantId, now_s: float) -> Rate | None:
        """The tenant's rate; None for no limit."""
        own, valid_until_s = self._known.get(tenant, (None, now_s))
        if valid_until_s <= now_s:
            self._known[tenant] = own, now_s + TENANT_RATE_TTL_S  # concurrent requests use the old rate
            try:
                own = await self._find(tenant)
            except Unavailable as fault:
                log.warning("tenant_limits_lookup_failed", tenant=tenant, error=str(fault))
            self._known[tenant] = own, now_s + TENANT_RATE_TTL_S
        return per_minute(own) or self._default
