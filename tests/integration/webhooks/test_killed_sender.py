"""A sender that is killed between sending and storing the result sends again, by another process."""

import signal
from pathlib import Path

import pytest

from tests.support.clients.webhook_receiver import KEYS, webhook_receiver
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until
from tests.support.system.processes import Command, run_rejoin

pytestmark = pytest.mark.slow

STARTED_S = 60.0


@pytest.mark.feature("F115")
async def test_a_killed_sender_loses_nothing(system: LocalSystem, tmp_path: Path) -> None:
    settings = {
        "REJOIN_CONTEXT_ENCRYPTION_KEYS": KEYS,
        "REJOIN_WEBHOOK_PRIVATE_ADDRESSES": "true",
        "REJOIN_WEBHOOK_TIMEOUT_S": "2",
    }
    async with webhook_receiver() as receiver:
        await receiver.add(system)
        receiver.answer = receiver.hang
        await run_rejoin(system, "webhooks", "test", receiver.endpoint)
        async with await Command.start(
            tmp_path / "runner", "runner", "--demo", variables=system.variables(**settings)
        ) as process:
            await process.says("serving", STARTED_S)
            await wait_until(lambda: len(receiver.received) == 1, deadline_s=60)
            process.signal(signal.SIGKILL)
        receiver.answer = receiver.accept
        await system.runner(
            context_encryption_keys=KEYS, webhook_private_addresses=True, webhook_timeout_s=2.0
        )
        await wait_until(lambda: len(receiver.received) == 2, deadline_s=60)
        first, second = receiver.received
        assert first.body == second.body
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        second.verify(receiver.secret)
        await receiver.remove(system)
