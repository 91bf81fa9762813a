"""How a process shows its metrics to Prometheus on a port of its own, and what it tells of itself.

What is counted is the services' own business: `rejoin_gateway.metrics`, `rejoin_runner.run.metrics`. Each has
a registry of its
own, so that two of them in one process count apart.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.process_collector import ProcessCollector
from rejoin_protocol.errors import Invalid

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""The bounds of every histogram of seconds here."""
LAG_PERIOD_S = 0.5


class ProcessMetrics:
    """A registry with what every process tells: memory, CPU, open files, and how late its event loop is."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._lag = self.gauge(
            "rejoin_loop_lag_seconds",
            "How late the event loop was at its latest look: above 0.1 the process has too much to do.",
        )
        self._draining = self.gauge("rejoin_draining", "1 once the process was asked to stop.")

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """Something that only grows; Prometheus sees `name_total`."""
        return Counter(name, text, labels, registry=self.registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """Something that is as it is."""
        return Gauge(name, text, labels, registry=self.registry)

    def seconds(self, name: str, text: str, *labels: str) -> Histogram:
        """How long something takes."""
        return Histogram(name, text, labels, buckets=SECONDS, registry=self.registry)

    def draining(self) -> None:
        """From now on this process only goes away."""
        self._draining.set(1)

    async def watch_loop(self) -> None:
        """Measure the lag, for ever."""
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + LAG_PERIOD_S
            await asyncio.sleep(LAG_PERIOD_S)
            self._lag.set(max(0.0, clock() - due))


@contextmanager
def serve_metrics(registry: CollectorRegistry, host: str, port: int | None) -> Iterator[int | None]:
    """`/metrics` at `host:port`, from a thread of its own; the port, which is a free one for 0. No port: not
    at all. Raises `Invalid` if it is taken.
    """
    if port is None:
        yield None
        return
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as fault:
        raise Invalid(f"metrics cannot be shown at {host}:{port} ({fault.strerror})") from fault
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
