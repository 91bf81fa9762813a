"""A runner dies in an answer that AG-UI clients read: they end with the one correct message, uncut."""

import secrets
from pathlib import Path

import pytest

from tests.support.agents.ag_ui.flows import COUNT, NUMBERS, build_agent
from tests.support.clients.ag_ui_client import AgUiClient, AgUiRun
from tests.support.faults.crashing_runners import crash_at_append
from tests.support.faults.killed_runners import played_over_kill, spread_kills
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import read_log

pytestmark = pytest.mark.feature("F117", "F71")
KILLS = 2


async def play(client: AgUiClient) -> AgUiRun:
    """Ask, and book what is asked. Returns the second run."""
    client.say("book")
    asked = await client.run("r-1")
    [interrupt] = asked.outcome["interrupts"]
    resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": True}]
    return await client.run("r-2", resume=resume)


async def test_a_runner_crashes_at_every_append(system: LocalSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an answer that waits for an approval. The whole stream can be read again, from any event on."""
    crash = crash_at_append(monkeypatch, stored=True)
    base, elsewhere = await system.gateway(), await system.gateway()
    await system.runner([build_agent(system.agent)], retry_delay_s=0.0)
    crash.next(-1)
    await play(AgUiClient(system, base, system.fresh("s")))
    for at in range(crash.count):
        crash.next(at)
        client = AgUiClient(system, base, system.fresh("s"))
        run = await play(client)
        told = client.thread.texts
        assert told[-2][:6] == "tool: ", at
        assert told == ["user: book", "assistant: ", told[-2], f"assistant: {told[-2][6:]}"], at
        middle = len(run.ids) // 2
        rest = await client.at(elsewhere).get(
            f"runs/{run.headers['x-workflow-run-id']}", run.ids[middle], runId="r-2"
        )
        assert run.raw[: middle + 1] + rest.raw == run.raw, at


@pytest.mark.slow
@pytest.mark.timeout(120 + 15 * KILLS)
async def test_its_process_was_killed_in_a_text(system: LocalSystem, tmp_path: Path) -> None:
    """With SIGKILL. The connection stays, and a snapshot takes the half text back."""
    base = await system.gateway()
    await system.runner([build_agent(system.agent)])
    whole = AgUiClient(system, base, system.fresh("s"))
    whole.say(COUNT)
    run = (await whole.run()).headers["x-workflow-run-id"]
    total = len(await read_log(system.nats_url, run))
    for at in spread_kills(total, KILLS + 2)[1:-1]:
        system.agent = f"killed-{secrets.token_hex(4)}"
        client = AgUiClient(system, await system.gateway(), system.fresh("s"))
        client.say(COUNT)
        logs, agent = tmp_path / f"logs-{at}", build_agent(system.agent)
        seen = await played_over_kill(system, logs, "ag_ui.flows", agent, at, client.run("r-1"))
        assert client.thread.texts == [f"user: {COUNT}", f"assistant: {NUMBERS}"], at
        late = await client.get(f"runs/{seen.headers['x-workflow-run-id']}", seen.ids[0], runId="r-1")
        assert seen.raw[:1] + late.raw == seen.raw, at
