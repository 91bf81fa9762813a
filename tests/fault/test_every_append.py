"""A runner that dies at every single append, before it is stored or after: the answer is always the same.

The death is an exception that nobody catches, at the one place where a runner touches the log; what the next
attempt finds is exactly what a killed process would have left. Processes are killed in `test_processes`.
"""

from typing import Any

import msgspec
import pytest

from protocol import chunks
from protocol.adapters.log import JetStreamLog
from protocol.adapters.ports import Log
from protocol.fold import UIMessage, fold
from protocol.ids import RunId
from protocol.log import Head
from runner.acting import UNKNOWN_OUTCOME
from runner.demo import demo, weather
from runner.tools import Tool, tool
from tests.fault.test_expired_log import expire
from tests.rig import Answer, Rig


class Died(Exception):
    """The process is gone."""


class Mortal:
    """A log whose writer dies once, at append number `at`."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.appends = 0
        self.at = -1
        self.stored = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def append(self, run: RunId, head: Head, payload: bytes) -> int:
        self.appends += 1
        dies = self.appends - 1 == self.at
        if dies and not self.stored:
            raise Died
        seq = await self._log.append(run, head, payload)
        if dies:
            raise Died
        return seq


class Shredder:
    """A tool that must not be repeated, and counts how often it was run."""

    def __init__(self) -> None:
        self.runs = 0

    def tool(self) -> Tool:
        """Make it a tool."""

        @tool(needs_approval=True)
        async def delete(file: str) -> str:
            """Delete a file."""
            self.runs += 1
            return f"{file} is deleted."

        return delete


PROMPTS = ["count 4", "weather Oslo", "delete notes.txt", "think", "fail"]


async def post(rig: Rig, base: str, body: Any) -> Answer:
    """As a client that is shown everything, so that it sees every number."""
    headers = {"x-emit-operations": "true"}
    async with rig.http.post(f"{base}/api/chat", json=body, headers=headers) as response:
        return await Answer.of(response)


async def answer(rig: Rig, base: str, prompt: str) -> tuple[UIMessage, list[Answer]]:
    """One answer as a client gets it, approvals given, and the responses that it came in."""
    session = rig.fresh("s")
    responses = [await post(rig, base, rig.chat(session, prompt))]
    history = f"{base}/api/agents/{rig.agent}/{session}"
    message = (await rig.get(history)).json["messages"][-1]
    waiting = [part for part in message["parts"] if part.get("state") == "approval-requested"]
    if waiting:
        for part in waiting:
            part["state"] = "approval-responded"
            part["approval"]["approved"] = True
        body = {"id": session, "messages": [message], "messageId": message["id"]}
        responses.append(await post(rig, base, body))
        message = (await rig.get(history)).json["messages"][-1]
    return message, responses


def plain(message: UIMessage) -> str:
    """A message without what differs from run to run."""
    text = msgspec.json.encode(message["parts"]).decode()
    for part in message["parts"]:
        details = part.get("data", {}) if part["type"] == "data-operation" else {}
        text = text.replace(str(details.get("details", {}).get("sessionId")), "SESSION")
        text = text.replace(str(details.get("timestamp")), "TIME")
        text = text.replace(str(part.get("approval", {}).get("id")), "APPROVAL")
    return text


@pytest.mark.parametrize("stored", [False, True], ids=["before it is stored", "after it is stored"])
async def test_f62_f71_a_message_is_restored_whole_wherever_its_runner_died(
    rig: Rig, *, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the log has expired it is written again; a death in the middle of that must not cost it."""
    base = await rig.gateway()
    logs: list[Mortal] = []

    def mortal(*brokers: Any) -> Mortal:
        logs.append(Mortal(JetStreamLog(*brokers)))
        return logs[-1]

    monkeypatch.setattr("runner.app.JetStreamLog", mortal)
    await rig.runner(retry_delay_s=0.0)
    [log] = logs
    log.stored = stored
    texts = set()
    for at in range(9):
        session = rig.fresh("s")
        log.at = -1
        asked = await rig.post(base, rig.chat(session, "delete notes.txt"))
        await expire(rig.nats_url, RunId(asked.headers["x-workflow-run-id"]), 0)
        log.appends, log.at = 0, at
        await rig.post(base, await rig.decision(base, session, approved=True))
        [_, message] = (await rig.get(f"{base}/api/agents/{rig.agent}/{session}")).json["messages"]
        assert [part["type"] for part in message["parts"]][:5] == [
            "data-operation",
            "data-operation",
            "data-operation",
            "step-start",
            "tool-delete",
        ], f"died at append {at}"
        texts.add(message["parts"][-2]["text"])
    assert texts <= {"notes.txt is deleted.", f"That did not work: {UNKNOWN_OUTCOME}"}


@pytest.mark.parametrize("stored", [False, True], ids=["before it is stored", "after it is stored"])
@pytest.mark.parametrize("prompt", PROMPTS)
async def test_f71_f84_the_answer_is_the_same_wherever_its_runner_died(
    rig: Rig, prompt: str, *, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F71, F84: one correct message, every event once, whatever append was the last."""
    base = await rig.gateway()
    logs: list[Mortal] = []

    def mortal(*brokers: Any) -> Mortal:
        logs.append(Mortal(JetStreamLog(*brokers)))
        return logs[-1]

    monkeypatch.setattr("runner.app.JetStreamLog", mortal)
    shredder = Shredder()
    agent = msgspec.structs.replace(demo(), name=rig.agent, tools=[weather, shredder.tool()])
    await rig.runner([agent], retry_delay_s=0.0)
    [log] = logs
    expected, _ = await answer(rig, base, prompt)
    appends, log.stored = log.appends, stored
    unknown = 0
    for at in range(appends):
        log.appends, log.at, shredder.runs = 0, at, 0
        message, responses = await answer(rig, base, prompt)
        check_events(message, responses)
        assert shredder.runs <= 1, f"died at append {at}"
        if UNKNOWN_OUTCOME in plain(message):
            unknown += 1
        else:
            assert plain(message) == plain(expected), f"died at append {at}"
    # Only between the word that the tool is started and its result is the outcome unknown; where the batches
    # of one run end elsewhere than those of another, that seam may be met under two numbers.
    assert unknown in ({1, 2} if prompt.startswith("delete") else {0})


def check_events(message: UIMessage, responses: list[Answer]) -> None:
    """The events are numbered without gap or repetition, and fold to the stored message."""
    frames = [frame for response in responses for frame in response.frames if frame.id]
    assert [int(frame.id.split("-")[1]) for frame in frames] == list(range(len(frames)))
    assert all(response.complete for response in responses)
    assert fold(chunks.decode(frame.data) for frame in frames) == message
