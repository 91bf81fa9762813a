"""KEDA's request to NATS' monitoring port, as its nats-jetstream scaler makes it, on servers with our users.

The scaler asks `/jsz` for an account with consumers and configuration. Its lag is what waits and what is
delivered and not acknowledged.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from rejoin_adapters.jetstream import nats_connection, setup
from tests.support.clients.api_families import ApiClient
from tests.support.system.kubernetes import MANIFESTS
from tests.support.system.local_system import LocalSystem
from tests.support.system.nats_cluster import cluster
from tests.support.system.observation import wait_until
from tests.support.system.processes import HOST

pytestmark = pytest.mark.slow


def trigger() -> dict[str, str]:
    """The metadata of the ScaledObject's trigger."""
    scaled = yaml.safe_load((MANIFESTS / "components" / "keda" / "scaledobject.yaml").read_text())
    found: dict[str, str] = scaled["spec"]["triggers"][0]["metadata"]
    return found


async def find_consumer(system: LocalSystem, port: int, name: str) -> dict[str, Any] | None:
    """The consumer as the scaler finds it: by account, stream and name."""
    asked = trigger()
    query = {"acc": asked["account"], "consumers": "true", "config": "true"}
    async with system.http.get(f"http://{HOST}:{port}/jsz", params=query) as response:
        found = await response.json()
    consumers = [
        consumer
        for account in found["account_details"]
        if account["name"] == asked["account"]
        for stream in account.get("stream_detail", ())
        if stream["name"] == asked["stream"]
        for consumer in stream.get("consumer_detail", ())
    ]
    return next((one for one in consumers if one["name"] == name), None)


@pytest.mark.feature("F113")
async def test_the_lag_is_the_runs_that_wait_and_those_that_are_executed(
    database_url: str, tmp_path: Path
) -> None:
    """Not those that wait for a person."""
    async with cluster(tmp_path / "servers", monitored=True) as servers:
        async with nats_connection.connect(servers.url("admin"), "migrate") as admin:
            await setup.declare_streams(admin, setup.StreamSettings())
        async with LocalSystem(servers.url("runner"), database_url) as system:
            base, port = await system.gateway(nats_url=servers.url("gateway")), servers.nodes[0].monitor
            consumer = trigger()["consumer"].replace("demo", system.agent)
            await system.runner(max_concurrent_runs=2)
            client = ApiClient(system, base)

            async def lag() -> int:
                found = await find_consumer(system, port, consumer)
                assert found is not None
                return int(found["num_pending"]) + int(found["num_ack_pending"])

            asked = system.fresh("s")
            await system.post(base, system.chat(asked, "delete notes.txt"))
            await wait_until(lambda: is_lag(lag, 0), "no lag while a run waits for a decision")
            sessions = [system.fresh("s") for _ in range(5)]
            async with asyncio.TaskGroup() as group:
                for session in sessions:
                    group.create_task(system.post(base, system.chat(session, "count 1000 every 20 ms")))
                await wait_until(lambda: is_lag(lag, len(sessions)), "a lag of all runs")
                for session in sessions:
                    await client.post(f"/api/chat/{session}/stop")
            await wait_until(lambda: is_lag(lag, 0), "no lag after their ends")


async def is_lag(lag: Any, expected: int) -> bool:
    return bool(await lag() == expected)
