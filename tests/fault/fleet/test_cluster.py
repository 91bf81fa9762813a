"""A production installation with faults under load: a dead leader of the log, and a rolling restart."""

from collections.abc import AsyncIterator
from statistics import median

import pytest
import structlog

from rejoin_adapters.embedded import Servers
from rejoin_protocol.broker import subjects
from tests.support.faults.broker_fleet import RUNS, SILENCE_S_MAX, Fleet, fleet, load, whole
from tests.support.system.databases import fresh_database

pytestmark = pytest.mark.slow
log = structlog.get_logger("tests")


@pytest.fixture(scope="module")
async def running(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with (
        fresh_database(servers.database_url) as url,
        fleet(tmp_path_factory.mktemp("fleet"), url) as one,
    ):
        yield one


@pytest.mark.feature("F91")
async def test_the_log_leaders_death_under_load_loses_doubles_and_disorders_nothing(
    running: Fleet,
) -> None:
    """Kill -9 of the broker that leads LOG, with all users' rights as in production; and it comes back."""
    async with load(running) as clients:
        leader = await running.leader(subjects.LOG)
        await leader.kill()
    log.warning(
        "leader_killed",
        runs=RUNS,
        events=sum(len(client.frames) for client in clients),
        silence_p50_s=round(median(client.silence_s for client in clients), 2),
        silence_max_s=round(max(client.silence_s for client in clients), 2),
        cuts=sum(client.cuts for client in clients),
    )
    assert max(client.silence_s for client in clients) < SILENCE_S_MAX
    await whole(running, clients)
    assert await running.leader(subjects.LOG) is not leader
    await leader.start()
    for service in (*running.gateways, *running.runners):
        assert service.command.running
        assert "broker_denied" not in service.command.err
        assert "Traceback" not in service.command.err


@pytest.mark.feature("F90")
async def test_a_rolling_restart_of_gateways_and_runners_is_unseen(running: Fleet) -> None:
    """Each in turn by SIGTERM, under load: clients that resume see every event once."""
    async with load(running) as clients:
        for service in (*running.gateways, *running.runners):
            await service.stop()
            await service.start()
    log.warning(
        "rolled",
        silence_p50_s=round(median(client.silence_s for client in clients), 2),
        silence_max_s=round(max(client.silence_s for client in clients), 2),
        cuts=sum(client.cuts for client in clients),
    )
    assert sum(client.cuts for client in clients) >= RUNS  # once each, on average
    await whole(running, clients)
