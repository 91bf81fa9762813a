"""Limits in this process's memory: open streams, failed logins, and the rates of requests.

Rates are the generic cell rate algorithm (GCRA, ITU-T I.371).

Each gateway counts its own requests, so n gateways allow up to n times the rate. Limits that must be exact
over all gateways are counted in the database: runs per tenant by `check_limits` in
`migrations/0006_admission.sql`. Clocks are arguments.
"""

import math
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from cachetools import LRUCache

from rejoin_adapters.store_types import Owner
from rejoin_protocol.errors import Limited, Unavailable
from rejoin_protocol.ids import TenantId

log = structlog.get_logger("rejoin.limits")

NAMES_MAX = 100_000
STREAM_RETRY_S = 5
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
        due_s = max(self._due_s.get(name, now_s), now_s)
        step_s = rate.period_s / rate.count
        wait_s = due_s - now_s - (rate.period_s - step_s)
        if wait_s > 0:
            return wait_s
        self._due_s[name] = due_s + step_s
        return 0.0

    def wait_s(self, name: str, rate: Rate, now_s: float) -> float:
        """Seconds until a request is allowed, at most 0 if one is. Counts nothing."""
        due_s = max(self._due_s.get(name, now_s), now_s)
        return due_s - now_s - (rate.period_s - rate.period_s / rate.count)


class FailedLogins:
    """Counts wrong API keys for each peer address and each key id, so that guessing is slow and costs nobody
    else anything. `rate` None: no limit.

    A key that was right before is always checked: guesses behind the same address, or with its id, lock its
    owner out of nothing.
    """

    def __init__(self, rate: Rate | None, names_max: int = NAMES_MAX) -> None:
        self._rate = rate
        self._failures = RateLimiter(names_max)
        self._trusted: LRUCache[str, bool] = LRUCache(names_max)

    def check(self, peer: str, key_id: str, now_s: float) -> None:
        """Raises `Limited` for a key that is not checked now."""
        if self._rate is None or key_id in self._trusted:
            return
        wait_s = max(
            self._failures.wait_s(name, self._rate, now_s) for name in (f"peer {peer}", f"key {key_id}")
        )
        if wait_s > 0:
            raise Limited(
                f"too many wrong credentials: at most {self._rate.count} a minute", math.ceil(wait_s)
            )

    def record(self, peer: str, key_id: str, now_s: float, *, succeeded: bool) -> None:
        """Count the result of a check."""
        if succeeded:
            self._trusted[key_id] = True
        elif self._rate is not None:
            for name in (f"peer {peer}", f"key {key_id}"):
                self._failures.take(name, self._rate, now_s)


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


class OpenStreams:
    """The counts of one gateway. None: no limit."""

    def __init__(self, tenant_max: int | None = None, user_max: int | None = None) -> None:
        self._tenant_max = tenant_max
        self._user_max = user_max
        self._counts: Counter[Owner] = Counter()

    def check(self, owner: Owner) -> None:
        """Raises `Limited` if the owner may not open another stream."""
        tenant, tenant_max, user_max = Owner(owner.tenant), self._tenant_max, self._user_max
        if tenant_max is not None and self._counts[tenant] >= tenant_max:
            raise Limited(f"the tenant has {tenant_max} streams open here, as many as it may", STREAM_RETRY_S)
        if owner.user is not None and user_max is not None and self._counts[owner] >= user_max:
            raise Limited(f"you have {user_max} streams open here, as many as you may", STREAM_RETRY_S)

    def hold(self, owner: Owner) -> "OpenStream":
        """Count a stream while the block runs. The block's begin raises as `check`."""
        return OpenStream(self, owner)

    def count(self, owner: Owner, more: int) -> None:
        """Count `more` streams of an owner, or fewer."""
        for one in {Owner(owner.tenant), owner}:
            self._counts[one] += more
            if not self._counts[one]:
                del self._counts[one]


class OpenStream:
    """The context of `OpenStreams.hold`. Small: there are thousands."""

    __slots__ = ("_owner", "_streams")

    def __init__(self, streams: OpenStreams, owner: Owner) -> None:
        self._streams = streams
        self._owner = owner

    def __enter__(self) -> None:
        self._streams.check(self._owner)
        self._streams.count(self._owner, 1)

    def __exit__(self, *_: object) -> None:
        self._streams.count(self._owner, -1)
