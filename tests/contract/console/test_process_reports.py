"""`ProcessReports`: the adapter and the double pass the same tests."""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import msgspec
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from rejoin_adapters.broker_settings import BrokerSettings
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.process_reports import NatsProcessReports
from rejoin_adapters.memory.broker.process_reports import MemoryProcessReports
from rejoin_adapters.ports.agent_registry import ProcessReports
from rejoin_protocol.ids import AgentName
from rejoin_protocol.process_report import ProcessReport
from tests.support.system.observation import wait_until

INSTALLATION = BrokerSettings(nats_prefix="reports")
"""Of its own: the processes of other tests hear nothing, and are not heard."""


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["memory", "nats"])
async def ports(request: pytest.FixtureRequest, nats_url: str) -> AsyncIterator[Sequence[ProcessReports]]:
    """The same adapter in two processes."""
    if request.param == "memory":
        yield [MemoryProcessReports()] * 2
        return
    async with AsyncExitStack() as stack:
        yield [
            NatsProcessReports(
                await stack.enter_async_context(nats_connection.connect(INSTALLATION.broker(nats_url), name))
            )
            for name in ("one", "two")
        ]


async def test_every_report_reaches_those_that_listen(ports: Sequence[ProcessReports]) -> None:
    here, there = ports
    name = secrets.token_hex(8)
    gateway = ProcessReport(name, "gateway", "1", 5, load=3, first_events=[1, 2])
    runner = ProcessReport(name, "runner", "1", 6, load_max=64, agents=[AgentName("demo")])
    heard: list[ProcessReport] = []

    def hear(report: ProcessReport) -> None:
        if report.id == name:
            heard.append(report)

    async def all_heard() -> bool:
        return len(heard) == 2

    # Nobody listens, or somebody does by the time that it arrives.
    await here.publish(msgspec.structs.replace(gateway, id=f"{name}-early"))
    async with there.listen(hear):
        for report in (gateway, runner):
            await here.publish(report)
        await wait_until(all_heard, "both reports", 5.0)
    await here.publish(gateway)
    assert heard == [gateway, runner]


async def test_what_is_no_report_is_left_out(nats_url: str) -> None:
    heard: list[ProcessReport] = []

    async def is_logged() -> bool:
        return [line["event"] for line in lines].count("process_report_invalid") == 2

    broker = INSTALLATION.broker(nats_url)
    async with (
        nats_connection.connect(broker, "one") as one,
        nats_connection.connect(broker, "two") as two,
        NatsProcessReports(two).listen(heard.append),
    ):
        with capture_logs() as lines:
            for data in (b"{", b'{"id": 1}'):
                await one.send(INSTALLATION.names.report("runner"), data)
            await one.flush()
            await wait_until(is_logged, "two lines", 5.0)
