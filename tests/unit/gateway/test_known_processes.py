"""Which processes a gateway knows, and how its own reports come about."""

import pytest

from rejoin_adapters.process.metrics_server import SECONDS
from rejoin_gateway.known_processes import KNOWN_PROCESSES_MAX, GatewayReporter, KnownProcesses, find_quantile
from rejoin_gateway.metrics import GatewayMetrics
from rejoin_protocol.process_report import SILENT_S, ProcessReport

BUCKETS = len(SECONDS) + 1


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def report(id: str, load: int = 0, started_at_ms: int = 1) -> ProcessReport:
    return ProcessReport(id, "runner", "1.0", started_at_ms, load=load)


def test_the_newest_report_of_a_process_counts_until_it_is_silent() -> None:
    clock = Clock()
    known = KnownProcesses(clock)
    known.hear(report("b"))
    clock.now_s += SILENT_S - 1
    known.hear(report("a", load=1))
    known.hear(report("a", load=2))
    assert [(one.id, one.load) for one in known.list()] == [("a", 2), ("b", 0)]
    clock.now_s += 2
    assert [one.id for one in known.list()] == ["a"]
    known.hear(report("a", started_at_ms=2))  # it was restarted
    assert [one.started_at_ms for one in known.list()] == [1, 2]


def test_it_keeps_a_bounded_number() -> None:
    clock = Clock()
    known = KnownProcesses(clock)
    for number in range(KNOWN_PROCESSES_MAX + 5):
        known.hear(report(f"{number:05}"))
    known.hear(report("00000", load=7))
    assert len(known.list()) == KNOWN_PROCESSES_MAX
    assert known.list()[0].load == 7
    clock.now_s += SILENT_S + 1
    known.hear(report("new"))
    assert [one.id for one in known.list()] == ["new"]


def test_a_gateway_reports_its_streams_and_the_first_events_of_the_last_minutes() -> None:
    metrics, streams = GatewayMetrics(), [1, 2]
    reporter = GatewayReporter(metrics, 5, lambda: len(streams))
    assert (reporter.describe().load, reporter.describe().started_at_ms) == (2, 5)
    metrics.observe_first_event("POST", 0.3)
    metrics.observe_first_event("POST", 100.0)
    metrics.observe_first_event("GET", 0.3)
    counts = reporter.describe().first_events
    assert sum(counts) == 2
    assert counts[SECONDS.index(0.5)] == 1
    assert counts[-1] == 1
    for _ in range(40):
        reporter.describe()
    assert sum(reporter.describe().first_events) == 0


@pytest.mark.parametrize(
    ("counts", "share", "wanted"),
    [
        ([0] * BUCKETS, 0.5, None),
        ([1] * BUCKETS, 0.5, SECONDS[7]),
        ([3, 1] + [0] * (BUCKETS - 2), 0.5, SECONDS[0]),
        ([3, 1] + [0] * (BUCKETS - 2), 0.95, SECONDS[1]),
        ([0] * (BUCKETS - 1) + [4], 0.5, None),
        ([], 0.5, None),
    ],
)
def test_a_quantile_is_the_bound_of_its_bucket(counts: list[int], share: float, wanted: float | None) -> None:
    assert find_quantile(counts, share) == wanted
