"""Tells all gateways, every few seconds, how this process is."""

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version

import msgspec

from rejoin_adapters.ports.agent_registry import ProcessReports
from rejoin_adapters.process.metrics_server import ProcessMetrics
from rejoin_adapters.process.overload import read_process_usage
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.ids import AgentName
from rejoin_protocol.process_report import (
    REPORT_INTERVAL_S,
    REPORTED_AGENTS_MAX,
    ProcessKind,
    ProcessReport,
)


def process_name() -> str:
    """The name of this process among all processes: its host and its number there."""
    return f"{socket.gethostname()}-{os.getpid()}"


def describe_process(
    kind: ProcessKind, name: str, started_at_ms: int, agents: Sequence[AgentName] = ()
) -> ProcessReport:
    """A report with what does not change."""
    served = sorted(agents)[:REPORTED_AGENTS_MAX]
    return ProcessReport(name, kind, version("rejoin"), started_at_ms, agents=served)


def with_metrics(report: ProcessReport, metrics: ProcessMetrics) -> ProcessReport:
    """The report with the present lag and memory of the process."""
    return msgspec.structs.replace(
        report,
        lag_s=metrics.lag_s,
        memory_bytes=read_process_usage().memory_bytes,
        overload=metrics.overload.reason,
        is_draining=metrics.is_draining,
    )


async def report_periodically(reports: ProcessReports, describe: Callable[[], ProcessReport]) -> None:
    """Report now and every few seconds until cancelled. A broker that is away is told later."""
    while True:
        with suppress(Unavailable):
            await reports.publish(describe())
        await asyncio.sleep(REPORT_INTERVAL_S)
