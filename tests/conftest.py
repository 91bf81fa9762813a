"""Fixtures of the suite: each worker process starts one NATS and one PostgreSQL server and ends them."""

import gc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings

from rejoin_adapters.embedded import Servers, embedded
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.postgres import migrate
from rejoin_adapters.postgres.runs import run_store
from rejoin_runner.models.providers.provider import ProviderConnections
from tests.support.providers.server import FakeProvider
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import RecordMeasurement
from tests.support.system.warm_databases import WarmDatabases

pytest_plugins = ("tests.support.file_times",)

# How long an example takes says how busy the machine is, and nothing about us.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def own_log_configuration(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test that configures the logs leaves nothing of it behind. Loggers are not cached: a cached logger
    would write to the output of the test that used it first.
    """
    configure, before = structlog.configure, structlog.get_config()

    def configure_uncached(**options: Any) -> None:
        configure(**{**options, "cache_logger_on_first_use": False})

    monkeypatch.setattr(structlog, "configure", configure_uncached)
    yield
    configure(**before)


@pytest.fixture(scope="session", autouse=True)
def plain_tracebacks() -> None:
    """Render tracebacks without local variables: structlog's default takes a quarter of a second for each."""
    structlog.configure(
        processors=[
            *structlog.get_config()["processors"][:-1],
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
        ]
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--feature F50` selects the tests of a feature; several are allowed. `--leaves` prolongs a test."""
    parser.addoption("--feature", action="append", default=[], help="run the tests of this feature only")
    parser.addoption("--leaves", default="3", help="how often each request is left in the slow test of that")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what shows none of the features of `--feature`. Refuse a name with an address in memory:
    worker processes could not agree on it.
    """
    if unstable := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"these tests have another name in each process: {unstable}")
    features = set(config.getoption("--feature"))
    if not features:
        return

    def shows_one(item: pytest.Item) -> bool:
        return any(features.intersection(mark.args) for mark in item.iter_markers("feature"))

    selected = [item for item in items if shows_one(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in selected])
    items[:] = selected


def pytest_collection() -> None:
    """Collect no garbage while modules are imported: it takes a third of that time, and finds little."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Leave what is imported and collected, about a million objects, out of garbage collections: each would
    stop this process for a second, and with it the heartbeats of the runners in it.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


MEASURED = "measured"


@pytest.fixture
def record_measurement(record_property: Callable[[str, object], None]) -> RecordMeasurement:
    """Record a text that is printed below the results of the run, whichever worker process ran the test."""
    return lambda text: record_property(MEASURED, text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the recorded measurements after the results."""
    said = [
        f"{report.nodeid}\n{text}\n"
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, text in report.user_properties
        if name == MEASURED
    ]
    if said:
        terminalreporter.section("measured")
        terminalreporter.write_line("\n".join(said))


@pytest.fixture(scope="session")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Servers]:
    async with embedded(tmp_path_factory.mktemp("servers"), durable=False) as running:
        async with nats_connection.connect(running.nats_url, "tests") as connection:
            await setup.declare_streams(connection, setup.StreamSettings())
        await migrate.migrate(running.database_url)
        warm = WarmDatabases(running.database_url)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run_store, "open_database", warm.open)
            patch.setattr(migrate, "check_schema", warm.check_schema)
            yield running
        await warm.close()


@pytest.fixture(scope="session")
def database_url(servers: Servers) -> str:
    return servers.database_url


@pytest.fixture(scope="session")
def nats_url(servers: Servers) -> str:
    return servers.nats_url


@pytest.fixture
async def system(servers: Servers) -> AsyncIterator[LocalSystem]:
    """Gateways and runners in this process, on the real servers. Each test has its own agent name."""
    async with LocalSystem(servers.nats_url, servers.database_url) as one:
        yield one


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    """A model provider on loopback."""
    async with FakeProvider() as one:
        yield one


@pytest.fixture
async def connections() -> AsyncIterator[ProviderConnections]:
    """A runner's connections to its providers."""
    async with ProviderConnections(read_timeout_s=5) as opened:
        yield opened
