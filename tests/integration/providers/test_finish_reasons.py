"""Why an answer ended reaches its clients, whatever their API, and says in words which limit was reached."""

from typing import Any

import aiohttp
import pytest

from rejoin_runner.agent.agent import Agent
from rejoin_runner.tools.tool_decorator import tool
from tests.support.providers.dialects import Answer, SpokenCall, speak
from tests.support.providers.profiles import OPENAI
from tests.support.providers.server import FakeProvider, ProviderReply, delta
from tests.support.system.local_system import LocalSystem

CUT_OFF = "The answer is cut off: it reached the limit of tokens."
FILTERED = "The answer ended early: the model provider's content filter stopped it."
USED_UP = "The agent used up its 2 steps and has not finished."


@tool
async def look() -> str:
    """Look around."""
    return "nothing"


async def serve(system: LocalSystem, provider: FakeProvider, *replies: ProviderReply) -> str:
    agent = Agent(name=system.agent, model="openai:fake", tools=[look], max_steps=2)
    await system.runner([agent], model_base_url=provider.base_url)
    provider.queue(*replies)
    return await system.gateway()


LENGTH = speak(OPENAI, Answer(text=["Once upon"], finish="length"))
FILTER = speak(OPENAI, Answer(text=["Once"], finish="content_filter"))
REFUSAL = ProviderReply([delta(refusal="I cannot."), delta(finish="stop")])
LOOKS = [speak(OPENAI, Answer(calls=[SpokenCall(f"c{number}", "look")])) for number in range(2)]
ENDS = {
    "length": ([LENGTH], "length", CUT_OFF),
    "content filter": ([FILTER], "content-filter", FILTERED),
    "refusal": ([REFUSAL], "content-filter", FILTERED),
    "steps": (LOOKS, "tool-calls", USED_UP),
    "length, then whole": ([LOOKS[0], speak(OPENAI, Answer(text=["Done."]))], "stop", None),
}
OPENAI_REASONS = {
    "length": "length",
    "content-filter": "content_filter",
    "tool-calls": "length",
    "stop": "stop",
}
INCOMPLETE: dict[str, str | None] = {
    "length": "max_output_tokens",
    "content-filter": "content_filter",
    "tool-calls": None,  # OpenAI has no word for it
}


@pytest.mark.feature("F100")
@pytest.mark.parametrize("end", ENDS)
async def test_the_stream_and_the_stored_message_say_it(
    system: LocalSystem, provider: FakeProvider, end: str
) -> None:
    replies, reason, words = ENDS[end]
    base, session = await serve(system, provider, *replies), system.fresh("s")
    answer = await system.post(base, system.chat(session, "go"))
    finish = next(chunk for chunk in answer.chunks if chunk["type"] == "finish")
    assert finish["finishReason"] == reason
    assert finish["messageMetadata"].get("finishDetail") == words
    [_, message] = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]
    assert message["metadata"].get("finishDetail") == words


async def ask(url: str, body: dict[str, Any]) -> Any:
    async with aiohttp.ClientSession() as client, client.post(url, json=body) as response:
        return await response.json()


@pytest.mark.feature("F100")
@pytest.mark.parametrize("end", ENDS)
async def test_chat_completions_and_responses_say_it_in_their_words(
    system: LocalSystem, provider: FakeProvider, end: str
) -> None:
    replies, reason, words = ENDS[end]
    base = await serve(system, provider, *replies, *replies)
    body: dict[str, Any] = {"model": system.agent, "messages": [{"role": "user", "content": "go"}]}
    completion = await ask(f"{base}/run/v1/chat/completions", body)
    assert completion["choices"][0]["finish_reason"] == OPENAI_REASONS[reason]
    assert completion["rejoin"].get("finish_detail") == words
    body = {"model": system.agent, "input": "go"}
    response = await ask(f"{base}/run/v1/responses", body)
    if reason == "stop":
        assert (response["status"], response["incomplete_details"]) == ("completed", None)
    else:
        assert response["status"] == "incomplete"
        detail = INCOMPLETE[reason]
        assert response["incomplete_details"] == (None if detail is None else {"reason": detail})
    assert response["rejoin"].get("finish_detail") == words
