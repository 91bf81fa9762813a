"""A run that ends or blocks its process again and again fails alone: the runs beside it do not."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from pathlib import Path

import aiohttp
import asyncpg
import msgspec
import psutil
import pytest

from rejoin.dev.supervised_process import RESTART_DELAY_MIN_S
from rejoin_runner.worker.quarantine import ALONE_OPTION
from tests.support.agents.poison import CALLS
from tests.support.system.local_system import Answer
from tests.support.system.observation import RecordMeasurement, wait_until
from tests.support.system.processes import Dev, has_exited, rejoin_dev

pytestmark = pytest.mark.slow

BLOCKED_S_MAX = 1.5
ATTEMPTS_MAX = 3
INNOCENTS = {
    "rest 3": "rested",
    "count 60": "".join(f"{number} " for number in range(1, 61)),
    "rest 1": "rested",
}


def poisoned_dev(directory: Path, **settings: str) -> AbstractAsyncContextManager[Dev]:
    (directory / "calls").touch()
    variables = {
        CALLS: str(directory / "calls"),
        "REJOIN_LOOP_BLOCKED_MAX_S": str(BLOCKED_S_MAX),
        "REJOIN_ATTEMPTS_MAX": str(ATTEMPTS_MAX),
        **settings,
    }
    return rejoin_dev(directory, "tests.support.agents.poison:agent", variables=variables)


@pytest.fixture(scope="module")
async def dev(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Dev]:
    async with poisoned_dev(tmp_path_factory.mktemp("dev")) as one:
        yield one


async def ask(dev: Dev, session: str, text: str) -> Answer:
    message = {"id": f"u-{session}", "role": "user", "parts": [{"type": "text", "text": text}]}
    body = {"id": session, "messages": [message], "trigger": "submit-message"}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90)) as http,
        http.post(f"{dev.gateways[0]}/api/chat", json=body) as response,
    ):
        return await Answer.of(response)


async def ask_all(dev: Dev, name: str, poison: str) -> tuple[Answer, dict[str, Answer]]:
    """Ask for the poison and, at the same time, for what is innocent."""
    await wait_until(lambda: len(dev.command.living("runner")) == 2, "two runners")
    async with asyncio.TaskGroup() as group:
        innocents = {
            text: group.create_task(ask(dev, f"{name}-{number}", text))
            for number, text in enumerate(INNOCENTS)
        }
        culprit = group.create_task(ask(dev, f"{name}-culprit", poison))
    return culprit.result(), {text: task.result() for text, task in innocents.items()}


async def attempts(dev: Dev, answer: Answer) -> int:
    connection = await asyncpg.connect(dev.database_url)
    try:
        run = answer.headers["x-workflow-run-id"]
        found: int = await connection.fetchval("select attempt from runs where id = $1", run)
        return found
    finally:
        await connection.close()


def executions(dev: Dev, word: str) -> int:
    """How often a tool was called, in all runs."""
    return sum(line.startswith(f"{word} ") for line in calls(dev))


def calls(dev: Dev) -> list[str]:
    return (dev.place / "calls").read_text().splitlines()


def is_called(dev: Dev, word: str, times: int) -> bool:
    return executions(dev, word) >= times


def alone(dev: Dev) -> list[psutil.Process]:
    """The processes that execute one run alone."""
    found = []
    for process in dev.command.family():
        with suppress(psutil.NoSuchProcess):  # a zombie is one of these
            if ALONE_OPTION in process.cmdline():
                found.append(process)
    return found


def error(answer: Answer) -> str:
    return "".join(chunk["errorText"] for chunk in answer.chunks if chunk["type"] == "error")


@pytest.mark.feature("F102")
@pytest.mark.parametrize("way", ["exit", "fault", "kill"])
async def test_a_tool_that_ends_its_process_each_time_fails_its_run_alone(
    dev: Dev, way: str, record_measurement: RecordMeasurement
) -> None:
    """Two runners die of it. Then the run is alone, and only processes die that hold no other run."""
    began = asyncio.get_running_loop().time()
    culprit, innocents = await ask_all(dev, way, f"die {way}")
    record_measurement(f"{way}: {asyncio.get_running_loop().time() - began:.1f} s")
    assert error(culprit) == "The run failed: it ended its own process during a call of die, 3 times."
    assert executions(dev, f"die {way}") == 5
    for text, answer in innocents.items():
        assert answer.complete
        assert error(answer) == ""
        assert answer.text.endswith(INNOCENTS[text])


@pytest.mark.feature("F102")
async def test_a_tool_that_blocks_its_loop_is_given_up_and_disturbs_no_lease(tmp_path: Path) -> None:
    """The runs beside it keep their first attempt. The second time it blocks a process without other runs.
    The loop is blocked for longer than the ack wait, so long that a busy machine ends no lease either.
    """
    async with poisoned_dev(tmp_path, REJOIN_ACK_WAIT_S="3") as dev:
        culprit, innocents = await ask_all(dev, "block", "block 7")
        told = re.fullmatch(
            r"The run failed: the tool block blocked its runner for (\d) s, twice\.", error(culprit)
        )
        assert told is not None, error(culprit)
        assert BLOCKED_S_MAX < int(told[1]) < 7, "as long as until the thread looked"
        assert executions(dev, "block") == 2
        for text, answer in innocents.items():
            assert answer.text == INNOCENTS[text]
            assert await attempts(dev, answer) == 1


async def test_a_suspected_run_that_does_no_harm_ends_right_and_leaves_no_process(dev: Dev) -> None:
    """Both of its runners were killed, so it is executed alone until it has made progress. Its runners are
    killed more often than a run may fail: that it was lost with them is no failure of the run. Each time the
    runner that had it is restarted at once, because it was ready.
    """
    before, deaths_before = executions(dev, "rest"), deaths_of_ready_runners(dev)
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(ask(dev, "suspected", "rest 2"))
        for count in range(1, ATTEMPTS_MAX + 3):
            called = partial(is_called, dev, "rest", before + count)
            await wait_until(called, "the call")
            dev.kill_runners()
    assert asked.result().text == "rested"
    await wait_until(lambda: not alone(dev), "the end of its process")
    assert '"run_alone"' in dev.command.err
    assert deaths_of_ready_runners(dev) - deaths_before >= ATTEMPTS_MAX + 2


def deaths_of_ready_runners(dev: Dev) -> int:
    lines = [line for line in dev.command.err.splitlines() if '"service_died"' in line]
    delays = [msgspec.json.decode(line)["restart_in_s"] for line in lines if '"runner ' in line]
    return delays.count(RESTART_DELAY_MIN_S)


async def test_the_process_of_an_isolated_call_ends_with_its_runner_and_the_call_is_taken_over(
    dev: Dev,
) -> None:
    """The runner gets no chance to end it. One execution of the call at a time, and one result."""
    await wait_until(lambda: len(dev.command.living("runner")) == 2, "two runners")
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(ask(dev, "apart", "rest_apart 5"))
        await wait_until(partial(is_called, dev, "rest_apart", 1), "the call")
        first = apart(dev)
        assert len(first) == 2, "the process, and the one that it has started"
        dev.kill_runners()
        await wait_until(partial(is_called, dev, "rest_apart", 2), "the second execution")
        assert all(map(has_exited, first))
    answer = asked.result()
    assert (answer.complete, error(answer), answer.text) == (True, "", "rested")
    assert executions(dev, "rest_apart") == 2
    outputs = [chunk for chunk in answer.chunks if chunk["type"] == "tool-output-available"]
    assert [chunk["output"] for chunk in outputs] == ["rested"]
    await wait_until(lambda: not apart(dev), "the end of the second process")


def apart(dev: Dev) -> list[psutil.Process]:
    """The living processes of isolated calls and what these have started, also those of a runner that was
    killed.
    """
    pids = [int(pid) for line in calls(dev) if line.startswith("rest_apart") for pid in line.split()[1:3]]
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return [process for process in found if not has_exited(process)]
