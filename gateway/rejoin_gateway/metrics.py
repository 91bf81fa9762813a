"""Prometheus metrics of a gateway.

Labels are few and bounded: a route's template, a status, an enum. No id, tenant, user or path is a label.
Nothing is counted per event: a stream counts when it opens, when it has caught up, and when it resyncs.
"""

from collections.abc import Sequence

from prometheus_client import generate_latest

from rejoin_adapters.jetstream.log_tail import ResyncReason
from rejoin_adapters.process.metrics_server import SECONDS, ProcessMetrics
from rejoin_adapters.store_types import RunCount
from rejoin_protocol.lifecycle import State

UNMATCHED = "(none)"
COUNTED_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""A client may send any other method: those share one label value."""


class GatewayMetrics(ProcessMetrics):
    """The metrics of one gateway process."""

    def __init__(self) -> None:
        super().__init__()
        self._requests = self.counter(
            "rejoin_http_requests",
            "Responses. A stream counts when it ends. Status 429 is a limit, 503 an unavailable dependency.",
            "method",
            "route",
            "status",
        )
        self._request_duration = self.seconds(
            "rejoin_http_request_duration_seconds",
            "Duration of requests, without those whose response is a stream.",
            "method",
        )
        self._first_event = self.seconds(
            "rejoin_first_event_seconds",
            "From a request to the first event of its stream. POST includes the wait for a runner.",
            "method",
        )
        self._catchup = self.seconds(
            "rejoin_stream_catchup_seconds",
            "From the start of a stream until it has sent all stored events; includes the client's reading.",
        )
        self._live_lag = self.seconds(
            "rejoin_live_lag_seconds",
            "From storing an event to its arrival here, by the broker's clock; one sample a second.",
        )
        self._resyncs = self.counter(
            "rejoin_stream_resyncs",
            "Streams that read the log again, without losing events: events missed (gap), slow client "
            "(slow), connection to the broker lost (away).",
            "reason",
        )
        for reason in ResyncReason:
            self._resyncs.labels(reason.value)
        self._aborts = self.counter(
            "rejoin_stream_aborts",
            "Streams that an error ended. Their clients resume.",
        )
        self._active_runs = self.gauge(
            "rejoin_active_runs",
            "Runs of all tenants that are executed or may be. Every gateway reports the same number.",
            "agent",
            "state",
        )
        self._oldest_queued = self.gauge(
            "rejoin_queue_oldest_age_seconds",
            "Age of the longest waiting queued run. It grows while no runner serves the agent.",
            "agent",
        )
        self._open_streams = self.gauge("rejoin_open_streams", "Open streams.")

    def count_request(
        self, method: str, route: str | None, status: int, duration_s: float, *, is_stream: bool
    ) -> None:
        """A request has been handled. `route`: its template; None if no route matched."""
        method = method if method in COUNTED_METHODS else UNMATCHED
        self._requests.labels(method, route or UNMATCHED, str(status)).inc()
        if not is_stream:
            self._request_duration.labels(method).observe(duration_s)

    def observe_first_event(self, method: str, seconds: float) -> None:
        """A stream has sent its first event."""
        self._first_event.labels(method).observe(seconds)

    def count_first_events(self) -> list[int]:
        """How many streams of sent messages got their first event within each of `SECONDS`, and not within
        the bound before; behind them, how many got it later.
        """
        [metric] = self._first_event.collect()
        cumulative = [
            int(sample.value)
            for sample in metric.samples
            if sample.name.endswith("_bucket") and sample.labels["method"] == "POST"
        ] or [0] * (len(SECONDS) + 1)
        return [count - before for count, before in zip(cumulative, [0, *cumulative], strict=False)]

    def observe_catchup(self, seconds: float) -> None:
        """A stream has sent all events that were stored."""
        self._catchup.observe(seconds)

    def observe_live_lag(self, seconds: float) -> None:
        """A live event has arrived."""
        self._live_lag.observe(max(0.0, seconds))

    def count_resync(self, reason: ResyncReason) -> None:
        """A stream reads the log again."""
        self._resyncs.labels(reason.value).inc()

    def count_aborted_stream(self) -> None:
        """An error has ended a stream."""
        self._aborts.inc()

    def set_open_streams(self, count: int) -> None:
        """Streams are opened or closed."""
        self._open_streams.set(count)

    def set_active_runs(self, counts: Sequence[RunCount]) -> None:
        """The database's counts of active runs."""
        self._active_runs.clear()
        self._oldest_queued.clear()
        for count in counts:
            self._active_runs.labels(count.agent, count.state).set(count.runs)
            if count.state == State.QUEUED and count.waiting_s is not None:
                self._oldest_queued.labels(count.agent).set(count.waiting_s)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
