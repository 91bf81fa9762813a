"""One request and its streamed run, on real servers."""

from tests.support.system.local_system import LocalSystem


async def test_a_post_streams_the_answer_and_history_has_it_afterwards(system: LocalSystem) -> None:
    base = await system.gateway()
    await system.runner()
    session = system.fresh("s")
    answer = await system.post(base, system.chat(session, "count 5"))
    assert answer.status == 200
    assert answer.complete
    assert answer.text == "1 2 3 4 5"
    history = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json
    assert [message["role"] for message in history["messages"]] == ["user", "assistant"]
    assert "activeRunId" not in history
