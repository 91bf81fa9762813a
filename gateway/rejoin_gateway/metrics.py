"""What a gateway counts for Prometheus.

Labels are few and bounded: a route's template, a status, our own words. No id, tenant, user or path is one.
Nothing is counted per event: a stream counts when it begins, when it has caught up and when it stumbles.
"""

from collections.abc import Sequence

from prometheus_client import generate_latest
from rejoin_adapters.jetstream.log_tail import ResyncReason
from rejoin_adapters.postgres.run_counts import RunCount
from rejoin_adapters.service.metrics_server import ProcessMetrics
from rejoin_protocol.lifecycle import State

UNMATCHED = "(none)"
METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""A client may send some thirty others too."""


class GatewayMetrics(ProcessMetrics):
    """One gateway's."""

    def __init__(self) -> None:
        super().__init__()
        self._requests = self.counter(
            "rejoin_http_requests",
            "Requests that were answered; a stream counts at its end. 429 is a limit, 503 something away.",
            "method",
            "route",
            "status",
        )
        self._took = self.seconds(
            "rejoin_http_request_duration_seconds",
            "How long requests took that were not answered by a stream.",
            "method",
        )
        self._first = self.seconds(
            "rejoin_first_event_seconds",
            "From a request to the first event of its stream. POST waits for a runner, GET for the log.",
            "method",
        )
        self._replay = self.seconds(
            "rejoin_stream_catchup_seconds",
            "From the opening of a stream to where it has caught up with the log, its client's time too.",
        )
        self._live = self.seconds(
            "rejoin_live_lag_seconds",
            "From the storing of an append to its arrival here, of one a second, by the broker's clock.",
        )
        self._stumbles = self.counter(
            "rejoin_stream_resyncs",
            "Streams that went back to the log: a hole in what came live (gap), a client too slow for it "
            "(slow), or the connection to the broker was lost (away). Nothing is lost by it.",
            "reason",
        )
        for why in ResyncReason:
            self._stumbles.labels(why.value)
        self._broken = self.counter(
            "rejoin_stream_aborts",
            "Streams that ended as errors, so that their clients resume.",
        )
        self._busy = self.gauge(
            "rejoin_active_runs",
            "Runs of all tenants whose turn it is, queued or running. Every gateway says the same.",
            "agent",
            "state",
        )
        self._waiting = self.gauge(
            "rejoin_queue_oldest_age_seconds",
            "How long the oldest of them waits for a runner: it grows while nobody serves the agent.",
            "agent",
        )
        self._streams = self.gauge("rejoin_open_streams", "Streams that are open.")

    def answered(self, method: str, route: str | None, status: int, took_s: float, *, stream: bool) -> None:
        """A request is over. `route`: its template."""
        method = method if method in METHODS else UNMATCHED
        self._requests.labels(method, route or UNMATCHED, str(status)).inc()
        if not stream:
            self._took.labels(method).observe(took_s)

    def first_event(self, method: str, seconds: float) -> None:
        """A stream has begun to say something."""
        self._first.labels(method).observe(seconds)

    def caught_up(self, seconds: float) -> None:
        """A stream has read the log to its end."""
        self._replay.observe(seconds)

    def live_lag(self, seconds: float) -> None:
        """How old something was when it came."""
        self._live.observe(max(0.0, seconds))

    def stumbled(self, why: ResyncReason) -> None:
        """A stream goes back to the log."""
        self._stumbles.labels(why.value).inc()

    def broken(self) -> None:
        """A stream was broken."""
        self._broken.inc()

    def streams(self, count: int) -> None:
        """How many are open."""
        self._streams.set(count)

    def busy(self, census: Sequence[RunCount]) -> None:
        """What is to be done, as the database says."""
        self._busy.clear()
        self._waiting.clear()
        for one in census:
            self._busy.labels(one.agent, one.state).set(one.runs)
            if one.state == State.QUEUED and one.waiting_s is not None:
                self._waiting.labels(one.agent).set(one.waiting_s)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)
