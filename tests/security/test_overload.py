"""An overloaded process takes no new work: a gateway answers 503, a runner leaves requests to others."""

from rejoin_adapters.process.overload import Overload, ProcessUsage
from rejoin_gateway.http.gateway_service import SERVICE
from tests.support.system.local_system import LocalSystem


async def test_an_overloaded_gateway_sheds_requests_until_it_is_over(system: LocalSystem) -> None:
    """Health checks are answered: the process is alive."""
    base = await system.gateway()
    await system.runner()
    overload = system.apps[0][SERVICE].backend.metrics.overload
    overload.look(lag_s=overload.lag_s_max + 1)
    refused = await system.post(base, system.chat(system.fresh("s"), "count 2"))
    assert (refused.status, refused.json["code"]) == (503, "unavailable")
    assert int(refused.headers["retry-after"]) > 0
    assert "overloaded (event loop)" in refused.json["detail"]
    assert (await system.get(f"{base}/health/live")).status == 200
    overload.look(lag_s=0.0)
    assert (await system.post(base, system.chat(system.fresh("s"), "count 2"))).text == "1 2"


async def test_an_overloaded_runner_leaves_requests_to_others(system: LocalSystem) -> None:
    """It finishes the run that it has."""
    base = await system.gateway()
    busy = await system.runner()
    async with system.http.post(
        f"{base}/api/chat", json=system.chat(system.fresh("s"), "count 20 every 50 ms")
    ) as response:
        await response.content.readany()
        busy.metrics.overload = Overload(lambda: ProcessUsage(999, 1_000, 0, None))
        busy.metrics.overload.look(lag_s=0.0)
        other = await system.runner()
        answers = [await system.post(base, system.chat(system.fresh("s"), "count 2")) for _ in range(3)]
        assert b"[DONE]" in await response.read()
    assert [answer.text for answer in answers] == ["1 2"] * 3
    claimed = [
        worker.metrics.registry.get_sample_value(
            "rejoin_runs_total", {"agent": system.agent, "state": "running"}
        )
        for worker in (busy, other)
    ]
    assert claimed[0] is not None
    assert claimed[0] <= 2  # it had asked the broker for one more before
    assert sum(filter(None, claimed)) == 4
