"""A run that waits for longer than its log is retained continues, and a client gets all of it."""

import pytest

from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import fold
from rejoin_protocol.ids import RunId
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import expire_log


@pytest.mark.feature("F62")
@pytest.mark.parametrize("keep", [0, 1, 2], ids=["all of it", "all but one batch", "all but two"])
async def test_a_decision_after_the_log_has_expired(system: LocalSystem, keep: int) -> None:
    await system.runner()
    base, session = await system.gateway(), system.fresh("s")
    asked = await system.post(base, system.chat(session, "delete notes.txt"))
    run = RunId(asked.headers["x-workflow-run-id"])
    await expire_log(system.nats_url, run, keep)
    cursor = asked.frames[2].id
    assert (await system.get(f"{base}/api/chat/{session}/stream?cursor={cursor}")).status == 410

    answer = await system.post(base, await system.decision(base, session, approved=True))
    assert answer.complete
    kinds = [chunk["type"] for chunk in answer.chunks]
    assert kinds[:3] == ["start", "tool-output-available", "start-step"], "only the continuation"
    [_, message] = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]
    assert message["parts"][-1]["text"] == "notes.txt is deleted."

    whole = await system.get(f"{base}/api/chat/{session}/stream?ui=7&startIndex=0")
    assert whole.complete
    assert fold(chunks.decode(frame.data) for frame in whole.frames if frame.id) == message
    resumed = await system.get(f"{base}/api/chat/{session}/stream?ui=7&cursor={whole.frames[3].id}")
    assert resumed.frames == whole.frames[4:]


async def test_a_finished_run_past_retention_is_gone_and_its_message_is_not(system: LocalSystem) -> None:
    await system.runner()
    base, session = await system.gateway(), system.fresh("s")
    chat = system.chat(session, "count 3")
    answer = await system.post(base, chat)
    await expire_log(system.nats_url, RunId(answer.headers["x-workflow-run-id"]), 0)
    assert (await system.post(base, chat)).status == 410
    assert (await system.get(f"{base}/api/chat/{session}/stream")).status == 204
    [_, message] = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]
    assert message["role"] == "assistant"
