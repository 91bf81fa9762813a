"""A runner's process gets SIGKILL around a step that waits for a client's tool and for a person.

At each record of the run's log in turn, the questions as well as the continuation. Whatever is lost: the
message has the client's output, the approved call runs at most once, and the message is whole. A tool that
needs no approval is called again if its result was lost. The client's tool is the agent's, or the request has
brought it.
"""

import os
import secrets
from pathlib import Path
from typing import Any

import pytest

from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import fold
from rejoin_runner.run.tool_calls import UNKNOWN_OUTCOME
from tests.support.agents.killed_client_tools import build_agent
from tests.support.faults.crashing_runners import crash_at_append
from tests.support.faults.killed_runners import played_over_kill, spread_kills
from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.observation import read_log

OPERATIONS = {"x-emit-operations": "true"}
KILLS = int(os.environ.get("REJOIN_KILLS", "6"))


async def play(
    system: LocalSystem, base: str, *, output_first: bool, is_brought: bool
) -> tuple[list[Answer], dict[str, Any]]:
    """Ask, then answer the client's call and the question, one after the other. Returns the streams and the
    stored message.
    """
    session = system.fresh("s")
    history = f"{base}/api/agents/{system.agent}/{session}"

    async def post(path: str, body: Any) -> Answer:
        async with system.http.post(f"{path}?ui=7", json=body, headers=OPERATIONS) as response:
            assert response.status == 200, await response.text()
            return await Answer.of(response)

    body = system.chat(session, "go", **({"tools": {"locate": {}}} if is_brought else {}))
    answers = [await post(f"{base}/api/chat", body)]
    asked = (await system.get(history)).json["messages"][-1]
    parts = {part["type"]: part for part in asked["parts"]}
    assert parts["tool-locate"]["state"] == "input-available"
    assert parts["tool-mail"]["state"] == "approval-requested"
    given = [
        {"type": "tool-output", "toolCallId": parts["tool-locate"]["toolCallId"], "output": "Oslo"},
        {
            "type": "approval",
            "approval": {"approvalId": parts["tool-mail"]["approval"]["id"], "approved": True},
        },
    ]
    first, last = given if output_first else reversed(given)
    await post(history, first)
    answers.append(await post(history, last))
    return answers, (await system.get(history)).json["messages"][-1]


def check(answers: list[Answer], message: dict[str, Any], ledger: Path, where: str) -> None:
    assert all(answer.complete for answer in answers), where
    frames = [frame for answer in answers for frame in answer.frames if frame.id]
    assert [int(frame.id.split("-")[1]) for frame in frames] == list(range(len(frames))), where
    assert fold(chunks.decode(frame.data) for frame in frames) == message, where
    lines = ledger.read_text().splitlines()
    assert set(lines) <= {"charge 900", "mail Ann"}, where
    assert lines.count("mail Ann") <= 1, where
    parts = {part["type"]: part for part in message["parts"] if part["type"].startswith("tool-")}
    assert parts["tool-charge"]["output"] == "charged", where
    assert (parts["tool-locate"]["state"], parts["tool-locate"]["output"]) == ("output-available", "Oslo"), (
        where
    )
    mail = parts["tool-mail"]
    assert mail.get("output") == "sent" or mail["errorText"] == UNKNOWN_OUTCOME, where
    assert message["parts"][-1]["text"] == "Done.", where


@pytest.mark.slow
@pytest.mark.feature("F71", "F104")
@pytest.mark.parametrize(
    ("stored", "output_first", "is_brought"),
    [(False, True, False), (True, False, False), (False, False, True), (True, True, True)],
    ids=[
        "before it is stored, output first",
        "after it is stored, decision first",
        "before it is stored, decision first, a tool of the request",
        "after it is stored, output first, a tool of the request",
    ],
)
async def test_a_runner_crashes_at_every_append_around_the_output(
    system: LocalSystem,
    tmp_path: Path,
    *,
    output_first: bool,
    stored: bool,
    is_brought: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crash = crash_at_append(monkeypatch, stored=stored)
    base, ledger = await system.gateway(), tmp_path / "ledger"
    agent = build_agent(system.agent, ledger, is_brought=is_brought)
    await system.runner([agent], retry_delay_s=0.0)
    crash.next(-1)

    async def played() -> tuple[list[Answer], dict[str, Any]]:
        return await play(system, base, output_first=output_first, is_brought=is_brought)

    check(*await played(), ledger, "no crash")
    for at in range(crash.count):
        ledger.unlink(missing_ok=True)
        crash.next(at)
        check(*await played(), ledger, f"died at append {at}")


@pytest.mark.slow
@pytest.mark.timeout(120 + 15 * KILLS)
@pytest.mark.feature("F71", "F88", "F104")
async def test_its_process_was_killed_around_the_output(system: LocalSystem, tmp_path: Path) -> None:
    base = await system.gateway()
    await system.runner([build_agent(system.agent, tmp_path / "whole", is_brought=True)])
    first, _ = await play(system, base, output_first=True, is_brought=True)
    total = len(await read_log(system.nats_url, first[0].headers["x-workflow-run-id"]))
    for number, at in enumerate(spread_kills(total, KILLS)):
        system.agent, ledger = f"killed-{secrets.token_hex(4)}", tmp_path / f"ledger-{at}"
        base = await system.gateway()  # whose default agent it is
        is_brought = number % 2 == 0
        answers, message = await played_over_kill(
            system,
            tmp_path / f"logs-{at}",
            "killed_client_tools",
            build_agent(system.agent, ledger, is_brought=is_brought),
            at,
            play(system, base, output_first=at % 2 == 0, is_brought=is_brought),
            TEST_LEDGER=str(ledger),
            TEST_BROUGHT="yes" if is_brought else "no",
        )
        check(answers, message, ledger, f"killed at record {at} of {total}")
