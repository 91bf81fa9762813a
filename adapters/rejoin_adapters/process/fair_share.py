"""Fair-share limit per tenant for a bounded resource, such as memory or concurrent fetches.

Dynamic thresholds (A. Choudhury and E. Hahne, "Dynamic queue length thresholds", 1998): a tenant gets more
as long as it holds less than what is free. So one tenant alone holds at most about half, several tenants
hold less each, and a tenant that holds nothing nearly always finds something free. Waiters are served first
in, first out; the caller limits the wait. The database limits runs per tenant: `check_limits` in
`migrations/0006_admission.sql`.
"""

import asyncio

import msgspec


class Share:
    """The amount that a caller holds until it releases it."""

    def __init__(self, shares: "FairShare", tenant: str, amount: int) -> None:
        self._shares = shares
        self._tenant = tenant
        self.amount = amount

    def release(self, amount: int | None = None) -> None:
        """Return the amount, or all of it. Further calls have no effect once all is returned."""
        returned = self.amount if amount is None else min(amount, self.amount)
        self.amount -= returned
        if returned:
            self._shares.give_back(self._tenant, returned)


class _Waiter(msgspec.Struct, frozen=True, eq=False):
    tenant: str
    amount: int
    share: asyncio.Future[Share]


class FairShare:
    """Divides `total` among tenants. `free`: the amount that is not held."""

    def __init__(self, total: int) -> None:
        self.free = total
        self._held: dict[str, int] = {}
        self._waiters: list[_Waiter] = []

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return len(self._waiters)

    async def take(self, tenant: str, amount: int = 1) -> Share:
        """Wait until the tenant may have the amount. A cancelled call holds nothing."""
        waiter = _Waiter(tenant, amount, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._serve()
        try:
            return await waiter.share
        except asyncio.CancelledError:
            # The share may have been granted in the same turn of the event loop: it must be returned here.
            if waiter.share.done() and not waiter.share.cancelled():
                waiter.share.result().release()
            else:
                self._waiters.remove(waiter)
            raise

    def give_back(self, tenant: str, amount: int) -> None:
        """Called by `Share.release`."""
        self.free += amount
        self._held[tenant] -= amount
        if not self._held[tenant]:
            del self._held[tenant]
        self._serve()

    def _serve(self) -> None:
        for waiter in tuple(self._waiters):
            if waiter.share.cancelled():  # its `take` has not run yet, and will remove it
                continue
            if waiter.amount <= self.free and self._held.get(waiter.tenant, 0) < self.free:
                self._waiters.remove(waiter)
                self.free -= waiter.amount
                self._held[waiter.tenant] = self._held.get(waiter.tenant, 0) + waiter.amount
                waiter.share.set_result(Share(self, waiter.tenant, waiter.amount))
