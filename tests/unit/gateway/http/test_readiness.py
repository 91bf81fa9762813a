"""The readiness checks run at most once a second, however many probes arrive."""

import asyncio

from rejoin_gateway.http.readiness import Readiness
from rejoin_protocol.errors import Unavailable


async def test_a_hundred_who_ask_within_a_second_cost_one_check() -> None:
    asked, now_s = 0, 0.0

    async def check() -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)

    one = Readiness({"broker": check}, lambda: now_s)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one.check_all()) for _ in range(100)]
    assert {str(task.result()) for task in tasks} == {"{'broker': 'ok'}"}
    assert asked == 1
    now_s = 1.0
    await one.check_all()
    assert asked == 2


async def test_each_check_fails_for_itself_and_none_takes_for_ever() -> None:
    async def fine() -> None:
        pass

    async def away() -> None:
        raise Unavailable("the database is away")

    async def bug() -> None:
        raise KeyError("secret")

    async def stuck() -> None:
        await asyncio.Event().wait()

    checks = {"fine": fine, "database": away, "bug": bug, "streams": stuck}
    assert await Readiness(checks, timeout_s=0.05).check_all() == {
        "fine": "ok",
        "database": "the database is away",
        "bug": "the check failed with an error: see the gateway's log",
        "streams": "no answer within 0.05 s",
    }
