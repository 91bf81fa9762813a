"""A request that has been read is carried out, although its client leaves at once: on every route."""

import asyncio
from collections.abc import Mapping, Sequence
from statistics import median

import pytest
from aiohttp import web

from rejoin_adapters.store_types import Run
from rejoin_gateway import app as gateway_app
from rejoin_gateway.app import ROUTES
from rejoin_gateway.core.backend import Backend
from rejoin_gateway.settings import GatewaySettings
from tests.support.clients.api_families import ApiClient
from tests.support.clients.left_requests import (
    CHANGES,
    LEAVE_AFTER_S,
    Cell,
    LeftRequest,
    cells,
    changing,
    leave,
    measure_all,
    open_stage,
)
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import RecordMeasurement, wait_until

EFFECT_S = 5.0
"""On a machine of its own each effect is there within a second; beside other tests it may take longer. The
sweep, which would repair a lost request, does not run in these tests.
"""
AT_ONCE = 6


def test_every_route_that_changes_something_has_an_example() -> None:
    assert changing(ROUTES) == CHANGES.keys()


def describe(taken: Mapping[Cell, Sequence[float | None]]) -> str:
    """By cell: the number of its requests, of those without effect, and the times to the effect."""
    lines = []
    for cell, times in taken.items():
        found = [time for time in times if time is not None]
        lost = len(times) - len(found)
        took = f"{median(found) * 1000:4.0f} {max(found) * 1000:4.0f} ms" if found else ""
        lines.append(f"{cell.route} {cell.name} +{cell.after_s * 1000:.0f} ms: {len(times)} {lost} {took}")
    return "\n".join(lines)


@pytest.mark.feature("F98")
async def test_a_request_has_its_effect_although_its_client_leaves(system: LocalSystem) -> None:
    """Each request once, after one of the times."""
    async with open_stage(system) as stage:
        wanted = [
            Cell(cell.route, cell.name, LEAVE_AFTER_S[number % len(LEAVE_AFTER_S)])
            for number, cell in enumerate(cells([0]))
        ]
        taken = await measure_all(stage, wanted, EFFECT_S, at_once=AT_ONCE)
    assert all(time is not None for times in taken.values() for time in times), describe(taken)


@pytest.mark.slow
@pytest.mark.feature("F98")
async def test_no_request_is_lost_in_any_of_many_races(
    system: LocalSystem, pytestconfig: pytest.Config, record_measurement: RecordMeasurement
) -> None:
    """Each request, left after each of the times, again and again (`--leaves`)."""
    async with open_stage(system) as stage:
        wanted = list(cells(LEAVE_AFTER_S)) * int(pytestconfig.getoption("--leaves"))
        taken = await measure_all(stage, wanted, EFFECT_S, at_once=AT_ONCE)
    record_measurement(describe(taken))
    assert all(time is not None for times in taken.values() for time in times), describe(taken)


@pytest.mark.feature("F98")
async def test_a_gateway_that_stops_finishes_what_it_has_read(
    system: LocalSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client has disconnected, and the gateway is stopped before it has published the run request."""
    await system.runner(sweep_interval_s=3600)
    other = ApiClient(system, await system.gateway())
    publish, begun = Backend.publish, asyncio.Event()

    async def publish_slowly(backend: Backend, run: Run) -> None:
        begun.set()
        await asyncio.sleep(0.3)
        await publish(backend, run)

    settings = GatewaySettings(
        nats_url=system.nats_url, database_url=system.database_url, allow_anonymous=True
    )
    session = other.session()
    async with gateway_app.open_application(settings) as app:
        server = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await server.setup()
        await web.TCPSite(server, "127.0.0.1", 0).start()
        host, port = server.addresses[0][:2]
        monkeypatch.setattr(Backend, "publish", publish_slowly)
        client = ApiClient(system, f"http://{host}:{port}")
        await leave(client, LeftRequest("POST", client.at(session), {"message": "count 2"}, ""), 0)
        await begun.wait()
        await server.cleanup()
    monkeypatch.undo()

    async def answered() -> bool:
        found = await other.get(other.at(session))
        return found.status == 200 and await other.texts(session) == ["user: count 2", "assistant: 1 2"]

    await wait_until(answered, "the answer", EFFECT_S)
