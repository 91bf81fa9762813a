"""What a provider does not report is estimated, and says so: quotas count no call as nothing."""

import asyncio
from typing import Any

import pytest

from rejoin_runner.agent.agent import Agent
from tests.support.providers.dialects import Answer, speak
from tests.support.providers.profiles import OPENAI
from tests.support.providers.server import FakeProvider, ProviderReply, delta, failure, frame
from tests.support.system.local_system import LocalSystem, read_frames

SAID = [delta(content="one two three "), delta(content="four five six.")]
WHOLE = [*SAID, delta(finish="stop")]
QUESTION = "How many words are there?"
UNREPORTED = {
    "no usage": ProviderReply(WHOLE),
    "a usage of nothing": ProviderReply(
        [*WHOLE, frame({"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}})]
    ),
    "a null": ProviderReply([*WHOLE, frame({"choices": [], "usage": None})]),
    "a connection that breaks": ProviderReply(SAID, "cut"),
}


async def serve(system: LocalSystem, provider: FakeProvider, *replies: ProviderReply, **agent: Any) -> str:
    await system.runner(
        [Agent(name=system.agent, model="openai:fake", **agent)], model_base_url=provider.base_url
    )
    provider.queue(*replies)
    return await system.gateway()


async def usage_of(system: LocalSystem, base: str, session: str) -> tuple[dict[str, Any], int]:
    """The usage of the stored answer, and the tokens that the session has used."""
    at = f"{base}/api/agents/{system.agent}/{session}"
    metadata = (await system.get(at)).json["messages"][-1].get("metadata", {})
    usage = metadata.get("usage", {})
    assert usage.pop("models", {}).keys() <= {"openai:fake"}
    return usage, (await system.get(f"{at}/usage")).json["totalTokens"]


@pytest.mark.parametrize("reply", UNREPORTED.values(), ids=UNREPORTED)
async def test_a_call_without_a_usage_is_estimated(
    system: LocalSystem, provider: FakeProvider, reply: ProviderReply
) -> None:
    base, session = await serve(system, provider, reply), system.fresh("s")
    await system.post(base, system.chat(session, QUESTION))
    usage, total = await usage_of(system, base, session)
    assert usage == {"inputTokens": 6, "outputTokens": 7, "totalTokens": 13, "estimated": True}
    assert total == 13


async def test_an_interrupted_answer_counts_what_was_said(
    system: LocalSystem, provider: FakeProvider
) -> None:
    """No provider reports the usage of an answer that was cut off."""
    base, session = await serve(system, provider, ProviderReply(SAID, "stall")), system.fresh("s")
    async with system.http.post(f"{base}/api/chat", json=system.chat(session, QUESTION)) as response:
        async for _ in read_frames(response, lambda frame: b"five" in frame.data):
            pass
        async with system.http.post(f"{base}/api/chat/{session}/stop") as stopped:
            assert (await stopped.json())["interrupted"]
        frames = [frame.data async for frame in read_frames(response)]
    assert frames[-1] == b"[DONE]"
    usage, total = await usage_of(system, base, session)
    assert usage == {"inputTokens": 6, "outputTokens": 7, "totalTokens": 13, "estimated": True}
    assert total == 13


async def test_an_answer_whose_time_is_over_counts_too(system: LocalSystem, provider: FakeProvider) -> None:
    reply = ProviderReply(SAID, "stall")
    base, session = await serve(system, provider, reply, timeout_s=2.0), system.fresh("s")
    answer = await system.post(base, system.chat(session, QUESTION))
    assert "took longer" in answer.raw.decode()
    assert (await usage_of(system, base, session))[1] == 13


async def test_what_the_provider_reports_is_no_estimate(system: LocalSystem, provider: FakeProvider) -> None:
    """Nor is the usage of a provider that refuses: nothing was answered."""
    reported = speak(OPENAI, Answer(text=["ok"]))
    base, session = await serve(system, provider, reported, failure(400)), system.fresh("s")
    await system.post(base, system.chat(session, QUESTION))
    counts = {"inputTokens": 10, "outputTokens": 20, "totalTokens": 30}
    assert await usage_of(system, base, session) == (counts, 30)
    refused = await system.post(base, system.chat(session, QUESTION))
    assert "error" in [chunk["type"] for chunk in refused.chunks]
    assert (await usage_of(system, base, session))[1] == 30


async def test_openai_s_wires_say_that_their_usage_is_an_estimate(
    system: LocalSystem, provider: FakeProvider
) -> None:
    base = await serve(system, provider, ProviderReply(WHOLE), ProviderReply(WHOLE))
    said = {"model": system.agent, "messages": [{"role": "user", "content": QUESTION}]}
    async with system.http.post(f"{base}/run/v1/chat/completions", json=said) as response:
        completion = await response.json()
    assert (completion["usage"]["total_tokens"], completion["rejoin"]["usage_estimated"]) == (13, True)
    asked = {"model": system.agent, "input": QUESTION}
    async with system.http.post(f"{base}/run/v1/responses", json=asked) as response:
        found = await response.json()
    assert (found["usage"]["total_tokens"], found["rejoin"]["usage_estimated"]) == (13, True)


async def test_interrupting_every_answer_is_not_for_free(system: LocalSystem, provider: FakeProvider) -> None:
    """Each answer adds to what the session has used."""
    replies = [ProviderReply(SAID, "stall")] * 2
    base, session = await serve(system, provider, *replies), system.fresh("s")
    for _ in replies:
        provider.asked.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(system.post(base, system.chat(session, QUESTION)))
            await provider.asked.wait()
            async with system.http.post(f"{base}/api/chat/{session}/stop") as stopped:
                assert stopped.status == 200
    _, total = await usage_of(system, base, session)
    assert total >= 2 * 6
