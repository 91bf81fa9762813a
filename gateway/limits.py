"""How often somebody may ask: the generic cell rate algorithm, in this process's memory.

Pure: it is given the time. Each gateway counts what it sees, so a fleet of n allows up to n times the rate to
somebody whose requests spread evenly; what must be exact over all of them is counted in the database.
"""

from collections import OrderedDict

import msgspec

NAMES_MAX = 100_000


class Rate(msgspec.Struct, frozen=True):
    """`count` in `period_s`, and as many at once after a silence."""

    count: int
    period_s: float = 60.0


class Limiter:
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
