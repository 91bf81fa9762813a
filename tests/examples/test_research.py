"""The research example: two agents in one message, and a report that is stored once."""

import msgspec

from examples.research import agent as research
from rejoin_client import Client, Data, ReasoningDelta, TextDelta
from tests.support.providers.server import FakeProvider, ProviderReply, call, delta, text
from tests.support.system.local_system import LocalSystem

TASK = '{"task": "What do bees see?"}'
REPORT = '{"title": "Bees", "findings": ["They see ultraviolet."]}'


def calls(name: str, arguments: str, id: str) -> ProviderReply:
    return ProviderReply([call(0, arguments, name=name, call_id=id), delta(finish="tool_calls")])


async def test_a_report_is_delegated_for_published_and_fetched(
    system: LocalSystem, provider: FakeProvider
) -> None:
    provider.queue(
        calls("delegate_to_librarian", TASK, "c1"),
        calls("search", '{"query": "bees"}', "c2"),
        text("Bees see ", "ultraviolet light."),
        calls("publish", REPORT, "c3"),
        text("Bees see more."),
    )
    agent = msgspec.structs.replace(research.agent, name=system.agent)
    await system.runner([agent], model_base_url=provider.base_url, model_api_key="k")
    base = await system.gateway()
    async with Client(base) as client:
        answer = await client.chat.send(system.fresh("s"), "Write about bees.")
        events = [event async for event in answer]
    assert "".join(event.delta for event in events if isinstance(event, TextDelta)) == "Bees see more."
    librarian = "".join(event.delta for event in events if isinstance(event, ReasoningDelta))
    assert librarian == "Bees see ultraviolet light."
    [artifact] = [event.data for event in events if isinstance(event, Data) and event.type == "data-artifact"]
    assert (artifact["name"], artifact["artifactSummary"]) == ("Bees", {"title": "Bees"})
    whole = (await system.get(f"{base}/run/api/artifacts/{artifact['artifactId']}")).json
    assert whole["data"] == msgspec.json.decode(REPORT)
    [found] = [one for one in provider.requests[2]["messages"] if one["role"] == "tool"]
    assert "ultraviolet" in found["content"]
