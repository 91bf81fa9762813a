"""Prometheus metrics of a process, and a port that serves them.

The services define their own metrics: `rejoin_gateway.metrics`, `rejoin_runner.run.metrics`. Each has its own
registry, so that a gateway and a runner in one process are counted separately.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.process_collector import ProcessCollector

from rejoin_adapters.process.overload import Overload
from rejoin_protocol.errors import Invalid

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Buckets of all histograms of seconds."""
LOOP_LAG_PERIOD_S = 0.5


class ProcessMetrics:
    """A registry with the metrics of every process: memory, CPU, open files, event-loop lag."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._lag = self.gauge(
            "rejoin_loop_lag_seconds",
            "Delay of the event loop at the last measurement. Above 0.1 the process is overloaded.",
        )
        self.overload = Overload()
        self.lag_s = 0.0
        """Delay of the event loop at the last measurement."""
        self.is_draining = False
        self._draining = self.gauge("rejoin_draining", "1 while the process stops, else 0.")

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """A counter; Prometheus appends `_total` to its name."""
        return Counter(name, text, labels, registry=self.registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """A gauge."""
        return Gauge(name, text, labels, registry=self.registry)

    def seconds(self, name: str, text: str, *labels: str) -> Histogram:
        """A histogram of seconds."""
        return Histogram(name, text, labels, buckets=SECONDS, registry=self.registry)

    def draining(self) -> None:
        """Record that the process stops."""
        self._draining.set(1)
        self.is_draining = True

    async def watch_loop(self) -> None:
        """Measure the lag, and look for overload, forever."""
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + LOOP_LAG_PERIOD_S
            await asyncio.sleep(LOOP_LAG_PERIOD_S)
            self.lag_s = max(0.0, clock() - due)
            self._lag.set(self.lag_s)
            self.overload.look(self.lag_s)


@contextmanager
def serve_metrics(registry: CollectorRegistry, host: str, port: int | None) -> Iterator[int | None]:
    """Serve `/metrics` at `host:port` from a thread; yields the port, a free one for 0. Without a port
    nothing is served. Raises `Invalid` if the port is in use.
    """
    if port is None:
        yield None
        return
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as fault:
        raise Invalid(f"metrics cannot be served at {host}:{port} ({fault.strerror})") from fault
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
