"""How often somebody may ask: the generic cell rate algorithm, in this process's memory.

It is given the time. Each gateway counts what it sees, so a fleet of n allows up to n times the rate to
somebody whose requests spread evenly; what must be exact over all of them is counted in the database.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.ids import TenantId

log = structlog.get_logger("rejoin.limits")

NAMES_MAX = 100_000
TENANT_RATE_TTL_S = 10.0
"""How long a tenant's own rate is believed without asking the database."""


class Rate(msgspec.Struct, frozen=True):
    """`count` in `period_s`, and as many at once after a silence."""

    count: int
    period_s: float = 60.0


class RateLimiter:
    """Who has asked how often. It forgets those first who have not asked for longest."""

    def __init__(self, names_max: int = NAMES_MAX) -> None:
        self._due: OrderedDict[str, float] = OrderedDict()
        self._names_max = names_max

    def take(self, name: str, rate: Rate, now_s: float) -> float:
        """Seconds until the next one is allowed: 0 if this one is, and only then it counts."""
        spacing_s = rate.period_s / rate.count
        due_s = max(self._due.get(name, now_s), now_s)
        wait_s = due_s - now_s - (rate.period_s - spacing_s)
        if wait_s > 0:
            return wait_s
        self._due[name] = due_s + spacing_s
        self._due.move_to_end(name)
        if len(self._due) > self._names_max:
            self._due.popitem(last=False)
        return 0.0


def per_minute(count: int | None) -> Rate | None:
    """So many a minute, if there is a limit."""
    return None if count is None else Rate(count)


class TenantRates:
    """How often each tenant may ask: by its own rate, which `find` looks up in requests a minute, or else by
    the `usual` one. Who asks while it is looked up is not kept waiting: what was known before counts.
    """

    def __init__(
        self,
        usual: Rate | None,
        find: Callable[[TenantId], Awaitable[int | None]],
        names_max: int = NAMES_MAX,
    ) -> None:
        self._usual = usual
        self._find = find
        self._names_max = names_max
        self._known: OrderedDict[TenantId, tuple[int | None, float]] = OrderedDict()

    async def of(self, tenant: TenantId, now_s: float) -> Rate | None:
        """A tenant's rate; None: as often as it likes. While the database is away, what was known counts."""
        own, until_s = self._known.get(tenant, (None, now_s))
        if until_s <= now_s:
            self._keep(tenant, own, now_s)
            try:
                own = await self._find(tenant)
            except Unavailable as fault:
                log.warning("tenant_limits_lookup_failed", tenant=tenant, error=str(fault))
            self._keep(tenant, own, now_s)
        return per_minute(own) or self._usual

    def _keep(self, tenant: TenantId, own: int | None, now_s: float) -> None:
        self._known[tenant] = own, now_s + TENANT_RATE_TTL_S
        self._known.move_to_end(tenant)
        if len(self._known) > self._names_max:
            self._known.popitem(last=False)
