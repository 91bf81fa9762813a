"""Which gateways and runners there are, and how they are, as this gateway has heard in the last seconds.

Every process tells all gateways (`process_report`). Nothing is asked and nothing is stored: a gateway that
has just started knows all others a few seconds later.
"""

from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from rejoin_adapters.process.metrics_server import SECONDS
from rejoin_adapters.process.process_reporter import describe_process, process_name, with_metrics
from rejoin_gateway.metrics import GatewayMetrics
from rejoin_protocol.process_report import REPORT_INTERVAL_S, SILENT_S, ProcessReport

KNOWN_PROCESSES_MAX = 1_000
"""Of more processes the last ones are not shown."""
FIRST_EVENTS_S = 300.0
"""How long a report tells of a first event."""


class KnownProcesses:
    """What was heard. `clock_s`: monotonic."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._heard: dict[tuple[str, str, int], tuple[float, ProcessReport]] = {}

    def hear(self, report: ProcessReport) -> None:
        """Note a report."""
        key = report.kind, report.id, report.started_at_ms
        if len(self._heard) >= KNOWN_PROCESSES_MAX:
            self._forget()
        if key in self._heard or len(self._heard) < KNOWN_PROCESSES_MAX:
            self._heard[key] = self._clock_s(), report

    def list(self) -> Sequence[ProcessReport]:
        """The newest report of each process that still reports; gateways first."""
        self._forget()
        return [self._heard[key][1] for key in sorted(self._heard)]

    def _forget(self) -> None:
        since = self._clock_s() - SILENT_S
        self._heard = {key: heard for key, heard in self._heard.items() if heard[0] >= since}


class GatewayReporter:
    """Makes this gateway's reports."""

    def __init__(self, metrics: GatewayMetrics, started_at_ms: int, count_streams: Callable[[], int]) -> None:
        self._metrics = metrics
        self._count_streams = count_streams
        self._identity = describe_process("gateway", process_name(), started_at_ms)
        self._first_events = deque(
            [metrics.count_first_events()], maxlen=round(FIRST_EVENTS_S / REPORT_INTERVAL_S)
        )

    def describe(self) -> ProcessReport:
        """How this gateway is now."""
        counts = self._metrics.count_first_events()
        recent = [now - before for now, before in zip(counts, self._first_events[0], strict=True)]
        self._first_events.append(counts)
        report = msgspec.structs.replace(self._identity, load=self._count_streams(), first_events=recent)
        return with_metrics(report, self._metrics)


def find_quantile(counts: Sequence[int], share: float) -> float | None:
    """The seconds within which this share of the events came, at most: the upper bound of a bucket of
    `SECONDS`. None without events, and if it took longer than the last bound.
    """
    wanted, seen = share * sum(counts), 0
    for bound_s, count in zip(SECONDS, counts, strict=False):
        seen += count
        if seen and seen >= wanted:
            return bound_s
    return None
