"""A runner's process gets SIGKILL around a rule, a request and a decision with changed arguments.

At each record of the run's log in turn, the questions as well as the continuation. Whatever is lost: the call
with the changed arguments runs at most once, with these arguments only, a rule's answer holds once something
depends on it, and the message is whole.
"""

import os
import secrets
from pathlib import Path
from typing import Any

import pytest

from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import fold
from rejoin_runner.run.tool_calls import UNKNOWN_OUTCOME
from tests.support.agents.killed_approvals import EDITED, SHOWN, build_agent
from tests.support.faults.crashing_runners import crash_at_append
from tests.support.faults.killed_runners import played_over_kill, spread_kills
from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.observation import read_log

ALL = {"x-emit-operations": "true"}
KILLS = int(os.environ.get("REJOIN_KILLS", "4"))


async def play(system: LocalSystem, base: str) -> tuple[list[Answer], dict[str, Any]]:
    """Ask, and approve every call that waits, the refund with changed arguments. Returns the responses and
    the stored message.
    """
    session = system.fresh("s")
    history = f"{base}/api/agents/{system.agent}/{session}"
    async with system.http.post(
        f"{base}/api/chat?ui=7", json=system.chat(session, "go"), headers=ALL
    ) as response:
        answers = [await Answer.of(response)]
    while True:
        message = (await system.get(history)).json["messages"][-1]
        waiting = [part for part in message["parts"] if part.get("state") == "approval-requested"]
        if not waiting:
            return answers, message
        decisions = [
            {
                "type": "approval",
                "approval": {"approvalId": part["approval"]["id"], "approved": True}
                | ({"input": EDITED} if part["type"] == "tool-refund" else {}),
            }
            for part in waiting
        ]
        async with system.http.post(f"{history}?ui=7", json=decisions, headers=ALL) as response:
            answers.append(await Answer.of(response))


def check(answers: list[Answer], message: dict[str, Any], ledger: Path, where: str) -> None:
    assert all(answer.complete for answer in answers), where
    frames = [frame for answer in answers for frame in answer.frames if frame.id]
    assert [int(frame.id.split("-")[1]) for frame in frames] == list(range(len(frames))), where
    assert fold(chunks.decode(frame.data) for frame in frames) == message, where
    lines = ledger.read_text().splitlines()
    runs = [line for line in lines if line != "asked"]
    assert set(runs) <= {"refund A-17 900 True", "mail Ann"}, where
    assert len(runs) == len(set(runs)), where
    parts = {part["type"]: part for part in message["parts"] if part["type"].startswith("tool-")}
    refund = parts["tool-refund"]
    assert refund["input"] == EDITED, where
    assert refund["callProviderMetadata"]["rejoin"]["edit"]["shownInput"] == SHOWN, where
    assert refund.get("output") == "Refunded 900." or refund["errorText"] == UNKNOWN_OUTCOME, where
    assert message["parts"][-1]["text"] == "Done.", where
    # The rule says no first, yes then, and so on: what the log says is the answer that counts.
    mail = parts["tool-mail"]
    assert ("approval" in mail) <= (lines.count("asked") > 1), where
    assert mail.get("output") == "sent" or mail["errorText"] == UNKNOWN_OUTCOME, where


@pytest.mark.feature("F51", "F62", "F71", "F121")
@pytest.mark.parametrize("stored", [False, True], ids=["before it is stored", "after it is stored"])
async def test_a_runner_crashes_at_every_append_around_the_decision(
    system: LocalSystem, tmp_path: Path, *, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = crash_at_append(monkeypatch, stored=stored)
    base, ledger = await system.gateway(), tmp_path / "ledger"
    await system.runner([build_agent(system.agent, ledger)], retry_delay_s=0.0)
    crash.next(-1)
    answers, message = await play(system, base)
    check(answers, message, ledger, "no crash")
    for at in range(crash.count):
        ledger.unlink(missing_ok=True)
        crash.next(at)
        answers, message = await play(system, base)
        check(answers, message, ledger, f"died at append {at}")


@pytest.mark.slow
@pytest.mark.timeout(120 + 15 * KILLS)
@pytest.mark.feature("F51", "F62", "F71", "F88", "F121")
async def test_its_process_was_killed_around_the_decision(system: LocalSystem, tmp_path: Path) -> None:
    base = await system.gateway()
    await system.runner([build_agent(system.agent, tmp_path / "whole")])
    first, _ = await play(system, base)
    total = len(await read_log(system.nats_url, first[0].headers["x-workflow-run-id"]))
    for at in spread_kills(total, KILLS):
        system.agent, ledger = f"killed-{secrets.token_hex(4)}", tmp_path / f"ledger-{at}"
        base = await system.gateway()  # whose default agent it is
        answers, message = await played_over_kill(
            system,
            tmp_path / f"logs-{at}",
            "killed_approvals",
            build_agent(system.agent, ledger),
            at,
            play(system, base),
            TEST_LEDGER=str(ledger),
        )
        check(answers, message, ledger, f"killed at record {at} of {total}")
