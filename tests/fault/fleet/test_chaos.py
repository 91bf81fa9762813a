"""Continuous chaos: every kind of process is killed again and again while clients chat; nothing is lost.

`REJOIN_CHAOS_S=60` is the full length. `REJOIN_CHAOS_SEED` repeats a schedule.
"""

import asyncio
import os
import re
import secrets
from collections import Counter
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from random import Random
from time import monotonic

import pytest

from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.process.background import run_alongside
from tests.support.faults.chaos import (
    Attacker,
    Chaos,
    Client,
    chaos_installation,
    is_settled,
    open_client_connections,
    read_history,
    schedule,
    set_limit,
    strike_brokers,
    vary_tenant_limit,
)
from tests.support.faults.invariants import (
    all_violations,
    format_score,
    read_artifact_runs,
    read_runs,
    undeleted_runs,
)
from tests.support.system.nats_cluster import cluster
from tests.support.system.observation import RecordMeasurement, wait_until
from tests.support.system.processes import Dev

pytestmark = pytest.mark.slow

DURATION_S = float(os.environ.get("REJOIN_CHAOS_S", "12"))
SESSIONS = 60 if DURATION_S >= 60 else 20
SETTLE_S = 40.0
WORDS_OF_FAULTS = (
    "Traceback",
    '"incident"',
    '"run_crashed"',
    '"tool_failed"',
    "Task exception was never",
)
NOT_OURS = "Exception ignored in: <function _SelectorTransport.__del__"
"""A connection that comes while its server closes: https://github.com/python/cpython/issues/109564."""


def entries(errors: str) -> list[str]:
    """What the services have written, a traceback with the line before it as one."""
    return re.split(r"\n(?=\{|[a-z.]+: )", errors)


async def nothing(found: Awaitable[Sequence[str]]) -> bool:
    """Whether there is none."""
    return not await found


async def rampage(
    where: Dev, clients: Sequence[Client], attackers: Sequence[Attacker], chaos: Chaos, seed: str
) -> None:
    """People talk, some attack, and processes die; then people finish what they were saying."""
    end = monotonic() + DURATION_S
    async with (
        asyncio.timeout(DURATION_S + SETTLE_S),
        run_alongside(vary_tenant_limit(where, Random(seed))),
        asyncio.TaskGroup() as group,
    ):
        for client in clients:
            group.create_task(client.converse(end))
        for attacker in attackers:
            group.create_task(attacker.attack(end))
        group.create_task(chaos.go(schedule(Random(seed), DURATION_S)))
    async with asyncio.timeout(SETTLE_S):
        await wait_until(lambda: set_limit(where, 10), "the last limit", SETTLE_S)
        await wait_until(lambda: is_settled(where.database_url), "the end of all runs", SETTLE_S)
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.catch_up())


@pytest.mark.feature("F83", "F84", "F85", "F86", "F87", "F88", "F89", "F90", "F91", "F92", "F93")
@pytest.mark.timeout(DURATION_S + 3 * SETTLE_S)
@pytest.mark.parametrize(
    ("attacked", "brokers"),
    [(False, 1), (True, 1), (True, 3)],
    ids=["", "attacked", "attacked, three brokers"],
)
async def test_nothing_is_lost_while_everything_dies(
    tmp_path: Path, record_measurement: RecordMeasurement, *, attacked: bool, brokers: int
) -> None:
    """`attacked`: a poisonous tool, a blocking tool and messages of 16 MB are among the load. No run of
    anybody else fails. `brokers`: three form a cluster, of which one is killed at a time.
    """
    seed = os.environ.get("REJOIN_CHAOS_SEED", str(secrets.randbelow(10**6)))
    async with AsyncExitStack() as stack:
        several = (
            await stack.enter_async_context(cluster(tmp_path / "brokers", brokers)) if brokers > 1 else None
        )
        where = await stack.enter_async_context(chaos_installation(tmp_path, brokers=several))
        http = await stack.enter_async_context(open_client_connections())
        clients = [Client(http, where.gateways, Random(f"{seed}-{n}"), leaves=True) for n in range(SESSIONS)]
        attackers = [Attacker(http, where.gateways, Random(f"{seed}-attack"))] if attacked else []
        chaos = Chaos(where)
        try:
            async with run_alongside(*([strike_brokers(several, DURATION_S)] if several else [])):
                await rampage(where, clients, attackers, chaos, seed)
            late = ""
        except (TimeoutError, AssertionError) as fault:
            late = f"it did not settle: {fault!r}"
        sends = [send for client in clients for send in client.sends]
        deleted = [send for client in clients for send in client.deleted]
        async with nats_connection.connect(where.nats_url, "tests") as connection:
            logs = JetStreamRunLog(connection, connection)
            with suppress(TimeoutError, AssertionError):
                await wait_until(
                    lambda: nothing(undeleted_runs(where.database_url, logs, deleted)),
                    "the purge",
                    20.0,
                )
            runs = await read_runs(where.database_url, logs)
            left = await undeleted_runs(where.database_url, logs, deleted)
        stories = {
            one.session: await read_history(http, where.gateways[0], one.session)
            for one in clients
            if one.sends
        }
        artifacts = await read_artifact_runs(where.database_url)
        mine = [run for run in runs if run.session in stories]  # a post that was cut may have made another
        sentences = [
            *all_violations(mine, sends, stories, (tmp_path / "calls").read_text(), artifacts),
            *left,
        ]
        errors = where.command.err
    record_measurement(
        f"{f'seed {seed}':>28}\n{format_score(chaos.struck, chaos.missed, sends, runs, errors)}\n"
        f"{'said and deleted':>28}  {len(deleted)}\n"
        f"{'attacks':>28}  {dict(Counter(word for one in attackers for word in one.sent))}"
    )
    said = [
        entry
        for entry in entries(errors)
        if any(word in entry for word in WORDS_OF_FAULTS) and NOT_OURS not in entry
    ]
    faults = [*([late] if late else []), *sentences, *said]
    assert not faults, "\n".join([f"seed {seed}", *faults])
