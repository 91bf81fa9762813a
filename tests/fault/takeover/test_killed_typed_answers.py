"""A runner dies at each append of a typed answer with tools, an approval, steering and a second try.

Whatever is lost: the answer is whole and fits, the model has read the steering message once, the approved
call runs at most once, and no event is lost or doubled.
"""

import os
import secrets
from pathlib import Path
from typing import Any

import pytest

from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import fold
from rejoin_protocol.events.typed_output import OUTPUT, OUTPUT_ERROR
from rejoin_runner.run.tool_calls import UNKNOWN_OUTCOME
from tests.support.agents.killed_typed import RECIPE, build_agent, steering_texts
from tests.support.faults.crashing_runners import crash_at_append
from tests.support.faults.killed_runners import played_over_kill, spread_kills
from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.observation import read_log

OPERATIONS = {"x-emit-operations": "true"}
KILLS = int(os.environ.get("REJOIN_KILLS", "4"))


async def play(system: LocalSystem, base: str) -> tuple[list[Answer], list[dict[str, Any]]]:
    """Ask, and approve the print. Returns the responses and the history."""
    session = system.fresh("s")
    history = f"{base}/api/agents/{system.agent}/{session}"

    async def post(path: str, body: Any) -> Answer:
        async with system.http.post(f"{path}?ui=7", json=body, headers=OPERATIONS) as response:
            assert response.status == 200, await response.text()
            return await Answer.of(response)

    asked = await post(f"{base}/api/chat", system.chat(session, "Soup"))
    [part] = [
        part
        for part in (await system.get(history)).json["messages"][-1]["parts"]
        if part.get("state") == "approval-requested"
    ]
    decision = {"type": "approval", "approval": {"approvalId": part["approval"]["id"], "approved": True}}
    answers = [asked, await post(history, decision)]
    return answers, (await system.get(history)).json["messages"]


def check(answers: list[Answer], history: list[dict[str, Any]], ledger: Path, where: str) -> None:
    assert all(answer.complete for answer in answers), where
    frames = [frame for answer in answers for frame in answer.frames if frame.id]
    assert [int(frame.id.split("-")[1]) for frame in frames] == list(range(len(frames))), where
    assert [one["role"] for one in history] == ["user", "assistant"], where
    message = history[-1]
    assert fold(chunks.decode(frame.data) for frame in frames) == message, where
    assert [part["data"] for part in message["parts"] if part["type"] == OUTPUT] == [RECIPE], where
    assert len([part for part in message["parts"] if part["type"] == OUTPUT_ERROR]) == 1, where
    assert message["metadata"]["outputState"] == "done", where
    assert steering_texts(message) == ["for two"], where
    calls = {part["type"]: part for part in message["parts"] if part["type"].startswith("tool-")}
    assert calls["tool-look_up"]["output"] == "soup: cut, boil", where
    printed = calls["tool-print_it"]
    assert printed.get("output") == "printed" or printed["errorText"] == UNKNOWN_OUTCOME, where
    count = ledger.read_text().count("1") if ledger.exists() else 0
    assert count <= 1, where
    assert count == 1 or "output" not in printed, where


@pytest.mark.slow
@pytest.mark.feature("F71", "F105", "F106")
@pytest.mark.parametrize("stored", [False, True], ids=["before it is stored", "after it is stored"])
async def test_a_runner_crashes_at_every_append_of_a_typed_answer(
    system: LocalSystem, tmp_path: Path, *, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = crash_at_append(monkeypatch, stored=stored)
    base, ledger = await system.gateway(), tmp_path / "ledger"
    await system.runner([build_agent(system.agent, base, ledger)], retry_delay_s=0.0)
    crash.next(-1)
    check(*await play(system, base), ledger, "no crash")
    appends = crash.count
    assert appends > 12
    for at in range(appends):
        ledger.unlink(missing_ok=True)
        crash.next(at)
        check(*await play(system, base), ledger, f"died at append {at}")


@pytest.mark.slow
@pytest.mark.timeout(120 + 15 * KILLS)
@pytest.mark.feature("F71", "F88", "F105", "F106")
async def test_its_process_was_killed_in_a_typed_answer(system: LocalSystem, tmp_path: Path) -> None:
    base = await system.gateway()
    await system.runner([build_agent(system.agent, base, tmp_path / "whole")])
    first, _ = await play(system, base)
    total = len(await read_log(system.nats_url, first[0].headers["x-workflow-run-id"]))
    for at in spread_kills(total, KILLS):
        system.agent, ledger = f"killed-{secrets.token_hex(4)}", tmp_path / f"ledger-{at}"
        base = await system.gateway()  # whose default agent it is
        answers, history = await played_over_kill(
            system,
            tmp_path / f"logs-{at}",
            "killed_typed",
            build_agent(system.agent, base, ledger),
            at,
            play(system, base),
            TEST_LEDGER=str(ledger),
            TEST_BASE=base,
        )
        check(answers, history, ledger, f"killed at record {at} of {total}")
