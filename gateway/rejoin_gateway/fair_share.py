"""Something of which there is only so much in a gateway, divided among tenants as they ask for it.

A tenant is given more for as long as it has less than what is left (dynamic thresholds: A. Choudhury and
E. Hahne, 1998). So alone it has at most about half, several have less each, and for one that has nothing yet
there is nearly always something. Never waits in the dark: who is not given any waits in the order of asking,
for as long as the caller lets it.
"""

import asyncio

import msgspec


class Share:
    """What one asker was given. It is to be released, once or more often."""

    def __init__(self, shares: "FairShare", tenant: str, amount: int) -> None:
        self._shares = shares
        self._tenant = tenant
        self.amount = amount

    def release(self, amount: int | None = None) -> None:
        """Give back so much of it, or all of it."""
        given = self.amount if amount is None else min(amount, self.amount)
        self.amount -= given
        if given:
            self._shares.give_back(self._tenant, given)


class _Claimant(msgspec.Struct, frozen=True, eq=False):
    tenant: str
    amount: int
    given: asyncio.Future[Share]


class FairShare:
    """`total` of it."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._held: dict[str, int] = {}
        self._askers: list[_Claimant] = []

    async def take(self, tenant: str, amount: int = 1) -> Share:
        """So much of it, once the tenant may have it."""
        asker = _Claimant(tenant, amount, asyncio.get_running_loop().create_future())
        self._askers.append(asker)
        self._serve()
        try:
            return await asker.given
        except asyncio.CancelledError:
            if asker.given.done() and not asker.given.cancelled():
                asker.given.result().release()
            else:
                self._askers.remove(asker)
            raise

    def give_back(self, tenant: str, amount: int) -> None:
        """`Share.release` does it."""
        self._free += amount
        self._held[tenant] -= amount
        if not self._held[tenant]:
            del self._held[tenant]
        self._serve()

    def _serve(self) -> None:
        for asker in tuple(self._askers):
            if asker.given.cancelled():  # and about to say so itself
                continue
            if asker.amount <= self._free and self._held.get(asker.tenant, 0) < self._free:
                self._askers.remove(asker)
                self._free -= asker.amount
                self._held[asker.tenant] = self._held.get(asker.tenant, 0) + asker.amount
                asker.given.set_result(Share(self, asker.tenant, asker.amount))
