"""Scaling down, as an orchestrator does it: a process gets SIGTERM, its probe says so, its work goes on
elsewhere.

Rolling restarts under load: `test_rolling_restart.py`. Kills: `test_processes.py`, `tests/fault/takeover`.
"""

import asyncio
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic

import aiohttp
import pytest

from rejoin_runner.app import OVERDUE_S
from tests.support.clients.reconnecting_client import DONE, cursor_of, split_frames
from tests.support.faults.killed_runners import runner_process
from tests.support.faults.takeover import assert_all_agree, fold_records
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import RecordMeasurement, read_log, wait_until
from tests.support.system.processes import HOST, Command, free_ports

pytestmark = pytest.mark.slow

GRACE_S = 1.5
DELAY_S = 1.5


async def probe(http: aiohttp.ClientSession, port: int, path: str) -> tuple[int, dict[str, str]]:
    """The status and the checks; status 0 if nobody answers."""
    with suppress(aiohttp.ClientError, TimeoutError):
        async with http.get(
            f"http://{HOST}:{port}/health/{path}", timeout=aiohttp.ClientTimeout(1)
        ) as response:
            return response.status, (await response.json()).get("checks", {})
    return 0, {}


@pytest.mark.feature("F113")
async def test_a_runner_that_is_taken_away_ends_its_runs_or_hands_them_over(
    system: LocalSystem, tmp_path: Path, record_measurement: RecordMeasurement
) -> None:
    """Within its grace, none lost and none doubled: short runs end there, long ones at the other runner."""
    base, port = await system.gateway(), free_ports(1)
    texts = ["count 30 every 20 ms"] * 3 + ["count 250 every 20 ms"] * 3
    sessions = [system.fresh("s") for _ in texts]
    variables = {"REJOIN_DRAIN_GRACE_S": str(GRACE_S), "REJOIN_HEALTH_PORT": str(port)}
    async with runner_process(system, tmp_path / "logs", "plain", **variables) as going:
        assert (await probe(system.http, port, "ready"))[0] == 200
        async with asyncio.TaskGroup() as group:
            posts = [
                group.create_task(system.post(base, system.chat(session, text)))
                for session, text in zip(sessions, texts, strict=True)
            ]
            await wait_until(lambda: len(system.feeds(0)) == len(texts), "all streams")
            runs = list(system.feeds(0))

            async def all_talk() -> bool:
                return all([len(await read_log(system.nats_url, run)) > 2 for run in runs])

            await wait_until(all_talk, "the words of all runs")
            await system.runner()
            began_s = monotonic()
            going.signal(signal.SIGTERM)

            async def draining() -> bool:
                status, checks = await probe(system.http, port, "ready")
                return (status, checks.get("runner")) == (503, "draining")

            await wait_until(draining, "the probe's answer")
            assert (await probe(system.http, port, "live"))[0] == 200
            assert await going.end(GRACE_S + OVERDUE_S) == 0, going.err
            took_s = monotonic() - began_s
            assert (await probe(system.http, port, "live"))[0] == 0
        answers = [post.result() for post in posts]
    logs = [
        await assert_all_agree(system, base, session, answer)
        for session, answer in zip(sessions, answers, strict=True)
    ]
    assert [fold_records(log)["parts"][-1]["text"] for log in logs] == [counted(text) for text in texts]
    attempts = [{record.head.attempt for record in log} for log in logs]
    assert attempts == [{1}] * 3 + [{1, 2}] * 3
    record_measurement(f"a runner with {len(texts)} runs was gone {took_s:.2f} s after SIGTERM")


def counted(text: str) -> str:
    """What the demo agent says to `count N every …`."""
    return " ".join(map(str, range(1, int(text.split()[1]) + 1)))


@pytest.mark.feature("F113")
async def test_a_runner_that_stands_still_answers_no_probe_and_is_ready_again_after_it(
    system: LocalSystem, tmp_path: Path
) -> None:
    port = free_ports(1)
    async with runner_process(system, tmp_path / "logs", "plain", REJOIN_HEALTH_PORT=str(port)) as process:
        assert (await probe(system.http, port, "live"))[0] == 200
        process.signal(signal.SIGSTOP)
        assert (await probe(system.http, port, "live"))[0] == 0
        process.signal(signal.SIGCONT)

        async def ready() -> bool:
            return (await probe(system.http, port, "ready"))[0] == 200

        await wait_until(ready, "the next answer")


async def gateway_process(system: LocalSystem, logs: Path, port: int) -> Command:
    """A gateway of its own process that keeps its streams for a while when it stops."""
    variables = system.variables(
        REJOIN_PORT=str(port),
        REJOIN_ALLOW_ANONYMOUS="true",
        REJOIN_DEFAULT_AGENT=system.agent,
        REJOIN_SHUTDOWN_DELAY_S=str(DELAY_S),
    )
    return await Command.start(logs, "gateway", variables=variables)


@pytest.mark.feature("F113")
async def test_a_gateway_that_is_taken_away_first_fails_its_probe_and_then_breaks_its_streams(
    system: LocalSystem, tmp_path: Path
) -> None:
    """In between it streams on. Its clients go on at another gateway, with each event once."""
    ports, session = [free_ports(1) for _ in range(2)], system.fresh("s")
    text = "count 150 every 20 ms"
    await system.runner()
    async with (
        await gateway_process(system, tmp_path / "one", ports[0]) as going,
        await gateway_process(system, tmp_path / "two", ports[1]) as other,
    ):
        await going.says('"listening"')
        await other.says('"listening"')
        seen: list[bytes] = []
        async with system.http.post(
            f"http://{HOST}:{ports[0]}/api/chat", json=system.chat(session, text)
        ) as response:
            seen += split_frames(await response.content.readuntil(b"text-delta"))
            going.signal(signal.SIGTERM)

            async def stopping() -> bool:
                status, checks = await probe(system.http, ports[0], "ready")
                return (status, checks.get("gateway")) == (503, "stopping")

            await wait_until(stopping, "the probe's answer")
            assert (await probe(system.http, ports[0], "live"))[0] == 200
            rest = b""
            with suppress(aiohttp.ClientPayloadError):
                async for piece in response.content.iter_any():
                    rest += piece
        before = split_frames(rest)
        assert await going.end() == 0, going.err
        assert before
        assert before[-1] != DONE
        after = await resumed(system, ports[1], session, cursor_of(before[-1]))
    assert after[-1] == DONE
    assert_each_once(before, after, text)


async def resumed(system: LocalSystem, port: int, session: str, cursor: str) -> list[bytes]:
    """The rest of the run, from another gateway."""
    async with system.http.get(
        f"http://{HOST}:{port}/api/chat/{session}/stream", headers={"Last-Event-ID": cursor}
    ) as response:
        assert response.status == 200
        return split_frames(await response.read())


def assert_each_once(before: Sequence[bytes], after: Sequence[bytes], text: str) -> None:
    cursors = [cursor_of(frame) for frame in [*before, *after[:-1]]]
    assert len(set(cursors)) == len(cursors)
    words = b"".join(before) + b"".join(after)
    last = counted(text).rpartition(" ")[2].encode()
    assert words.count(b'" ' + last + b'"') == 1
