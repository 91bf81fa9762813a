"""A production installation whose log has three shards: a dead broker silences its shards alone, and the
number of shards grows under load.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from random import Random
from statistics import median
from typing import Any

import pytest

from rejoin.cli import doctor
from rejoin.cli.check_settings import DoctorSettings
from rejoin_adapters.embedded import Servers
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_protocol.broker import broker_url, subjects
from rejoin_protocol.ids import RunId, shard_of
from tests.support.faults.broker_fleet import (
    SILENCE_S_MAX,
    Fleet,
    WatchingClient,
    fleet,
    load,
    whole,
)
from tests.support.system.databases import fresh_database
from tests.support.system.observation import RecordMeasurement, wait_until

pytestmark = pytest.mark.slow
SHARDS = 3
NAMES = subjects.broker_names(shards=SHARDS)
ENOUGH_RUNS = 30
"""So many that all shards are drawn: one of two million times one is not."""
UNTOUCHED_S_MAX = 4.0
"""Of runs whose leader lives: their processes may have been connected to the dead broker."""


@pytest.fixture(scope="module")
async def running(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """With one shard at first."""
    async with (
        fresh_database(servers.database_url) as url,
        fleet(tmp_path_factory.mktemp("fleet"), url) as one,
    ):
        yield one


def used_shards(clients: Sequence[WatchingClient]) -> set[int]:
    return {shard_of(RunId(client.run)) for client in clients}


async def leaders(one: Fleet) -> dict[str, str]:
    broker = broker_url.parse(one.brokers.url("admin"), names=NAMES)
    async with nats_connection.connect(broker, "tests") as admin:
        return {stream: leader for stream, (leader, _) in (await setup.find_leaders(admin)).items()}


@pytest.mark.feature("F112")
@pytest.mark.feature("F90")
async def test_growing_from_one_shard_to_three_under_load_shows_every_event_once(running: Fleet) -> None:
    """Old runs stay where they are, and later ones are on all shards: the next tests see them there."""
    async with load(running) as old:
        await running.grow(SHARDS)
    await whole(running, old)
    assert used_shards(old) == {0}
    for service in (*running.gateways, *running.runners):
        assert "broker_denied" not in service.command.err
        assert "Traceback" not in service.command.err


@pytest.mark.feature("F91")
async def test_a_dead_broker_silences_the_shards_that_it_leads_and_no_others(
    running: Fleet, record_measurement: RecordMeasurement
) -> None:
    """Leaders are spread, as the doctor confirms; every event comes once, whichever shard it is of."""
    led = await leaders(running)
    for stream_of in (NAMES.log_stream, NAMES.requests_stream):
        assert len({led[stream_of(shard)] for shard in range(SHARDS)}) == SHARDS
    settings = DoctorSettings(
        nats_url=running.brokers.url("admin"),
        database_url=running.admin["REJOIN_DATABASE_URL"],
        log_shards=SHARDS,
        nats_replicas=3,
    )
    assert not [finding for finding in await doctor.examine(settings) if "leader" in finding.text]
    async with load(running, ENOUGH_RUNS) as clients:
        dead = await running.leader(NAMES.log_stream(1))
        await dead.kill()
    await whole(running, clients)
    assert used_shards(clients) == {0, 1, 2}
    silent = {shard for shard in range(SHARDS) if led[NAMES.log_stream(shard)] == dead.options.path.name}
    assert silent == {1}
    silences = {
        shard: [client.silence_s for client in clients if shard_of(RunId(client.run)) == shard]
        for shard in range(SHARDS)
    }
    record_measurement(
        "\n".join(
            f"shard {shard}{' (killed)' if shard in silent else ''}: {len(found)} runs silent for "
            f"p50 {median(found):.2f} s, max {max(found):.2f} s"
            for shard, found in silences.items()
            if found
        )
    )
    assert max(silences[1]) < SILENCE_S_MAX
    assert max(silence for shard in (0, 2) for silence in silences[shard]) < UNTOUCHED_S_MAX
    await dead.start()

    async def is_crowded() -> bool:
        found = await doctor.examine(settings)
        return any("are not spread" in finding.text for finding in found)

    await wait_until(is_crowded, "the doctor's note about the leaders")


async def start_again(victim: Any) -> None:
    """As a supervisor does: a runner that starts while a stream has no leader ends."""
    async with asyncio.timeout(SILENCE_S_MAX):
        while True:
            with suppress(AssertionError):
                await victim.start()
                return


@pytest.mark.feature("F84", "F90", "F91")
async def test_chaos_over_three_brokers_loses_and_doubles_nothing(
    running: Fleet, record_measurement: RecordMeasurement
) -> None:
    """Runners, gateways and brokers are killed one after the other, in random order, and started again."""
    seed = secrets.randbelow(10**6)
    random = Random(seed)
    victims: list[Any] = [
        random.choice(kind) for kind in (running.runners, running.gateways, running.brokers.nodes)
    ]
    random.shuffle(victims)
    async with load(running, ENOUGH_RUNS) as clients:
        for victim in victims:
            await victim.kill()
            await start_again(victim)
    await whole(running, clients)
    record_measurement(
        f"seed {seed}: {len(clients)} runs on shards {sorted(used_shards(clients))}, "
        f"{sum(client.cuts for client in clients)} cuts, longest silence "
        f"{max(client.silence_s for client in clients):.1f} s"
    )
