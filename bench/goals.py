"""What was promised, and whether the figures of a run keep it: the one place of the goals.

A goal is an absolute number where the machine hardly matters, else a comparison of two lines of the same run.
"""

from collections.abc import Iterator, Sequence

import msgspec

from bench.figures import Figure


class Other(msgspec.Struct, frozen=True):
    """Another figure of the same scenario, and of the same measure unless another one is named."""

    server: str
    measure: str | None = None

    def of(self, one: Figure, figures: Sequence[Figure]) -> float:
        """Its value. Raises `LookupError` if it was not measured."""
        wanted = (one.scenario, self.server, self.measure or one.measure)
        for other in figures:
            if (other.scenario, other.server, other.measure) == wanted:
                return other.value
        raise LookupError(f"{', '.join(wanted)}: not measured")

    def __str__(self) -> str:
        return f"{self.server} {self.measure or ''}".rstrip()


class Goal(msgspec.Struct, frozen=True):
    """What a figure may be at most or, with `least`, at least: as it is, in multiples of another (`per`), or
    in what it has more than another (`over`). `scenario` begins the titles of the figures that it is about.
    """

    scenario: str
    server: str
    measure: str
    limit: float
    least: bool = False
    per: Other | None = None
    over: Other | None = None

    def concerns(self, one: Figure) -> bool:
        """Whether it is about that figure."""
        named = one.scenario.startswith(self.scenario)
        return named and (one.server, one.measure) == (self.server, self.measure)

    def verdict(self, one: Figure, figures: Sequence[Figure]) -> "Verdict":
        """Whether it is met. Raises `LookupError`."""
        value, words = one.value, f"{self.limit:g} {one.unit}".strip()
        if self.per is not None:
            value, words = value / self.per.of(one, figures), f"{self.limit:g} times {self.per}"
        elif self.over is not None:
            value, words = value - self.over.of(one, figures), f"{words} over {self.over}"
        met = value >= self.limit if self.least else value <= self.limit
        return Verdict(
            one.scenario, one.measure, value, f"at {'least' if self.least else 'most'} {words}", met
        )


class Verdict(msgspec.Struct, frozen=True):
    """`value`: the figure, or how it compares; `goal`: in words."""

    scenario: str
    measure: str
    value: float
    goal: str
    met: bool

    def __str__(self) -> str:
        return f"{self.value:,.2f}, {self.goal}: {'met' if self.met else 'MISSED'}"


_BARE, _NATS, _FEW = Other("bare"), Other("nats"), Other("few")
GOALS = (
    Goal("start", "rejoin dev", "warm", 2.0),
    Goal("start", "import", "rejoin_gateway.app", 0.6),
    Goal("first event", "rejoin", "p50", 10.0, over=_BARE),
    Goal("first event", "rejoin", "p99", 5.0, per=Other("rejoin", "p50")),
    Goal("live latency", "rejoin", "p99", 3.0, per=_NATS),
    Goal("live throughput", "rejoin", "rate", 0.6, least=True, per=_BARE),
    Goal("replay", "rejoin", "rate", 0.8, least=True, per=_NATS),
    Goal("reconnect storm", "rejoin", "all caught up", 2.0, per=Other("nats", "all read")),
    Goal("open streams", "rejoin", "gateway memory", 30.0),
    Goal("open streams", "rejoin", "broker memory", 2.0),
    Goal("open streams", "rejoin", "gateway CPU", 10.0),
    Goal("slow client", "rejoin", "gateway memory", 1.0),
    Goal("slow client", "rejoin", "missing events", 0.0),
    Goal("density, provider", "rejoin", "runs", 2.0, least=True, per=Other("library")),
    Goal("log append, 200 runs", "rejoin", "rate", 0.7, least=True, per=_NATS),
    Goal("growth", "rejoin", "first event p50", 1.3, per=_FEW),
    Goal("growth", "rejoin", "history p50", 1.3, per=_FEW),
    Goal("growth", "rejoin", "replay p50", 1.3, per=_FEW),
)


def judged(figures: Sequence[Figure]) -> Iterator[tuple[Figure, Verdict | None]]:
    """The figures in order, each beside its verdict if it has a goal. Raises `LookupError`."""
    for one in figures:
        goal = next((goal for goal in GOALS if goal.concerns(one)), None)
        yield one, goal.verdict(one, figures) if goal else None


def unmeasured(figures: Sequence[Figure]) -> list[str]:
    """The goals that no figure is about."""
    return [f"{goal.scenario} {goal.measure}" for goal in GOALS if not any(map(goal.concerns, figures))]
