"""One request, one streamed run, on real parts."""

from tests.support.rig import Rig


async def test_a_post_streams_the_answer_and_history_has_it_afterwards(rig: Rig) -> None:
    base = await rig.gateway()
    await rig.runner()
    session = rig.fresh("s")
    answer = await rig.post(base, rig.chat(session, "count 5"))
    assert answer.status == 200
    assert answer.complete
    assert answer.text == "1 2 3 4 5"
    history = (await rig.get(f"{base}/api/agents/{rig.agent}/{session}")).json
    assert [message["role"] for message in history["messages"]] == ["user", "assistant"]
    assert "activeRunId" not in history
