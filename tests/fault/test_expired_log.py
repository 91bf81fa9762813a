"""A run that waited for longer than its log is kept goes on all the same, and is rejoined whole."""

import pytest
from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import fold
from rejoin_protocol.ids import RunId

from tests.support.observe import expire
from tests.support.rig import Rig


@pytest.mark.parametrize("keep", [0, 1, 2], ids=["all of it", "all but one batch", "all but two"])
async def test_f62_a_decision_after_the_log_has_expired(rig: Rig, keep: int) -> None:
    await rig.runner()
    base, session = await rig.gateway(), rig.fresh("s")
    asked = await rig.post(base, rig.chat(session, "delete notes.txt"))
    run = RunId(asked.headers["x-workflow-run-id"])
    await expire(rig.nats_url, run, keep)
    cursor = asked.frames[2].id
    assert (await rig.get(f"{base}/api/chat/{session}/stream?cursor={cursor}")).status == 410

    answer = await rig.post(base, await rig.decision(base, session, approved=True))
    assert answer.complete
    kinds = [chunk["type"] for chunk in answer.chunks]
    assert kinds[:3] == ["start", "tool-approval-response", "tool-output-available"], "only the continuation"
    [_, message] = (await rig.get(f"{base}/api/agents/{rig.agent}/{session}")).json["messages"]
    assert message["parts"][-2]["text"] == "notes.txt is deleted."

    whole = await rig.get(f"{base}/api/chat/{session}/stream?startIndex=0")
    assert whole.complete
    assert fold(chunks.decode(frame.data) for frame in whole.frames if frame.id) == message
    resumed = await rig.get(f"{base}/api/chat/{session}/stream?cursor={whole.frames[3].id}")
    assert resumed.frames == whole.frames[4:]


async def test_a_finished_run_past_retention_is_gone_and_its_message_is_not(rig: Rig) -> None:
    await rig.runner()
    base, session = await rig.gateway(), rig.fresh("s")
    chat = rig.chat(session, "count 3")
    answer = await rig.post(base, chat)
    await expire(rig.nats_url, RunId(answer.headers["x-workflow-run-id"]), 0)
    assert (await rig.post(base, chat)).status == 410
    assert (await rig.get(f"{base}/api/chat/{session}/stream")).status == 204
    [_, message] = (await rig.get(f"{base}/api/agents/{rig.agent}/{session}")).json["messages"]
    assert message["role"] == "assistant"
