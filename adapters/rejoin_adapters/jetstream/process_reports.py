"""`ProcessReports`: NATS messages that every gateway receives. Nothing is stored."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import get_args

import structlog

from rejoin_adapters.jetstream.nats_client import RawMessage
from rejoin_adapters.jetstream.nats_connection import NatsConnection
from rejoin_protocol.process_report import ProcessKind, ProcessReport, decode_report, encode_report

log = structlog.get_logger("rejoin.reports")


class NatsProcessReports:
    """The adapter of `ProcessReports`."""

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection

    async def publish(self, report: ProcessReport) -> None:
        """See `ProcessReports`."""
        await self._connection.send(self._connection.names.report(report.kind), encode_report(report))

    @asynccontextmanager
    async def listen(self, on_report: Callable[[ProcessReport], None]) -> AsyncIterator[None]:
        """See `ProcessReports`."""

        def receive(kind: ProcessKind, message: RawMessage) -> None:
            try:
                on_report(decode_report(message.data, kind))
            except ValueError:
                log.warning("process_report_invalid", subject=message.subject)

        async with AsyncExitStack() as stack:
            kinds: tuple[ProcessKind, ...] = get_args(ProcessKind.__value__)
            for kind in kinds:
                subject = self._connection.names.report(kind)
                stack.push_async_callback(await self._connection.listen(subject, partial(receive, kind)))
            await self._connection.flush()
            yield
