"""The goals, and whether the figures of a run meet them.

A goal is an absolute number where the machine hardly matters. Otherwise it compares two figures of one run.
"""

from collections.abc import Iterator, Sequence

import msgspec

from bench.figures import Figure


class Reference(msgspec.Struct, frozen=True):
    """Another figure of the same scenario. `measure` None: the same measure."""

    server: str
    measure: str | None = None

    def value(self, figure: Figure, figures: Sequence[Figure]) -> float:
        """Its value, for the goal of `figure`. Raises `LookupError` if it was not measured."""
        if (value := self.measured(figure, figures)) is None:
            raise LookupError(
                f"{figure.scenario}, {self.server}, {self.measure or figure.measure}: not measured"
            )
        return value

    def measured(self, figure: Figure, figures: Sequence[Figure]) -> float | None:
        """Its value, or None if it was not measured."""
        key = (figure.scenario, self.server, self.measure or figure.measure)
        values = (other.value for other in figures if (other.scenario, other.server, other.measure) == key)
        return next(values, None)

    def __str__(self) -> str:
        return f"{self.server} {self.measure or ''}".rstrip()


class Goal(msgspec.Struct, frozen=True):
    """A limit for the figures whose title starts with `scenario`: a maximum, or with `least` a minimum.

    The limit applies to the figure itself, to its ratio to another figure (`per`), or to its difference from
    another figure (`over`). `before`: the figure when the goal was set, on two shared cores. `peer`: another
    server, and its figure then. If a run measures that server, too, the figure, the limit and `before` are
    compared as ratios to it, which a slow machine changes less.
    """

    scenario: str
    server: str
    measure: str
    limit: float
    least: bool = False
    per: Reference | None = None
    over: Reference | None = None
    before: float | None = None
    peer: tuple[Reference, float] | None = None

    def applies_to(self, figure: Figure) -> bool:
        """Whether the goal applies to a figure."""
        named = figure.scenario.startswith(self.scenario)
        return named and (figure.server, figure.measure) == (self.server, self.measure)

    def verdict(self, figure: Figure, figures: Sequence[Figure]) -> "Verdict":
        """Compare a figure with the limit. Raises `LookupError` if the other figure was not measured."""
        value, limit, before = figure.value, self.limit, self.before
        words = f"{limit:g} {figure.unit}".strip()
        if self.per is not None:
            value, words = value / self.per.value(figure, figures), f"{limit:g} times {self.per}"
        elif self.over is not None:
            value, words = value - self.over.value(figure, figures), f"{words} over {self.over}"
        elif self.peer is not None and (now := self.peer[0].measured(figure, figures)):
            server, then = self.peer
            value, limit, before = value / now, limit / then, before / then if before is not None else None
            words = f"{limit:.3g} times {server}"
        if before is not None:
            words = f"{words}, before {before:.3g}"
        met = value >= limit if self.least else value <= limit
        return Verdict(
            figure.scenario, figure.measure, value, f"at {'least' if self.least else 'most'} {words}", met
        )


class Verdict(msgspec.Struct, frozen=True):
    """The result of a goal. `value`: the compared number. `goal`: the limit in words."""

    scenario: str
    measure: str
    value: float
    goal: str
    met: bool

    def __str__(self) -> str:
        return f"{self.value:,.2f}, {self.goal}: {'met' if self.met else 'MISSED'}"


_BARE, _NATS, _FEW, _AI_SDK = Reference("bare"), Reference("nats"), Reference("few"), Reference("ai-sdk")
GOALS = (
    Goal("start", "rejoin dev", "warm", 1.0, before=1.2),
    Goal("start", "first answer", "cold", 2.0, before=3.97, peer=(Reference("first answer", "ai-sdk"), 0.44)),
    Goal("start", "first answer", "warm", 2.0, peer=(Reference("first answer", "ai-sdk"), 0.44)),
    Goal("start", "import", "rejoin_gateway.app", 0.5, before=0.66),
    Goal("base memory", "rejoin", "memory", 180.0, before=266),
    Goal("size", "gateway", "installed", 60.0),
    Goal("size", "runner", "installed", 90.0),
    Goal("first event, 1 at once", "rejoin", "p50", 3.0, before=6.5, peer=(_AI_SDK, 2.8)),
    Goal("first token, 1 at once", "rejoin", "p50", 5.0, before=9.75, peer=(_AI_SDK, 4.7)),
    Goal("first event, 50 under way", "rejoin", "p50", 10.0, over=_BARE),
    Goal("first event, 50 at once", "rejoin", "p50", 70.0, before=114),
    Goal("first event", "rejoin", "p99", 5.0, per=Reference("rejoin", "p50")),
    Goal("short runs", "rejoin", "rate", 300.0, least=True, before=174, peer=(_AI_SDK, 191)),
    Goal("short runs", "rejoin", "CPU", 5.0, before=9.0, peer=(_AI_SDK, 6.0)),
    Goal("chats, 10,", "rejoin", "CPU", 0.45, before=0.75, peer=(_AI_SDK, 0.56)),
    Goal("chats, 50,", "rejoin", "CPU", 0.30, before=0.43, peer=(_AI_SDK, 0.46)),
    Goal("chats, 200,", "rejoin", "CPU", 0.15, before=0.217, peer=(_AI_SDK, 0.196)),
    Goal("chats, 200, unpaced", "rejoin", "age p99", 15.0, before=47),
    Goal("chats, 50, default pacing", "rejoin", "age p50", 25.0, before=55),
    Goal("live latency", "rejoin", "p99", 3.0, per=_NATS),
    Goal("live throughput", "rejoin", "rate", 0.6, least=True, per=_BARE),
    Goal("replay", "rejoin", "rate", 0.8, least=True, per=_NATS),
    Goal("reconnect storm", "rejoin", "all caught up", 2.0, per=Reference("nats", "all read")),
    Goal("open streams", "rejoin", "memory", 90.0, before=169),
    Goal("open streams", "rejoin", "memory gateway", 20.0, before=26),
    Goal("open streams", "rejoin", "CPU", 0.02, before=0.12),
    Goal("cut streams", "rejoin", "lost", 0.0),
    Goal("cut streams", "rejoin", "doubled", 0.0),
    Goal("kill -9", "rejoin", "viewers right", 10.0, least=True),
    Goal("slow client", "rejoin", "gateway memory", 1.0),
    Goal("slow client", "rejoin", "missing events", 0.0),
    Goal("density, provider", "rejoin", "runs", 2.0, least=True, per=Reference("library")),
    Goal("log append, 200 runs", "rejoin", "rate", 0.7, least=True, per=_NATS),
    Goal("admission", "rejoin", "rate", 800.0, least=True, before=410),
    Goal("growth", "rejoin", "first event p50", 1.3, per=_FEW),
    Goal("growth", "rejoin", "history p50", 1.3, per=_FEW),
    Goal("growth", "rejoin", "replay p50", 1.3, per=_FEW),
)


def judge(figures: Sequence[Figure]) -> Iterator[tuple[Figure, Verdict | None]]:
    """Each figure with its verdict, or None if it has no goal. Raises `LookupError`."""
    for figure in figures:
        goal = next((goal for goal in GOALS if goal.applies_to(figure)), None)
        yield figure, goal.verdict(figure, figures) if goal else None


def goals_without_figure(figures: Sequence[Figure]) -> list[str]:
    """The goals that apply to none of the figures."""
    return [f"{goal.scenario} {goal.measure}" for goal in GOALS if not any(map(goal.applies_to, figures))]
