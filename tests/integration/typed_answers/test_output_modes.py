"""How each provider is told what an answer must be. Its answer is the JSON as text in every mode."""

from typing import Any

import msgspec
import pytest

from rejoin_protocol.events.chunks import TextDelta, ToolInputAvailable
from rejoin_runner.agent.output_type import describe_output
from rejoin_runner.models.model import OUTPUT_TOOL, Done, ModelRequest, ModelSettings, ToolSpec
from rejoin_runner.models.providers.provider import ProviderConnections, open_model
from tests.support.providers import anthropic_frames, responses_frames
from tests.support.providers import server as chat
from tests.support.providers.protocols import ANTHROPIC, CHAT, RESPONSES
from tests.support.providers.server import FakeProvider, ProviderReply

pytestmark = pytest.mark.feature("F105")


class Town(msgspec.Struct):
    """A town."""

    name: str
    people: int


SPEC = describe_output("agent", Town).spec
WEATHER = ToolSpec("weather", "Looks.", {"type": "object", "properties": {}})
HI = {"id": "u1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
NOTHING: dict[str, Any] = {"id": "a1", "role": "assistant", "parts": []}
PIECES = ('{"name":"Os', 'lo","people":709000}')
JSON = "".join(PIECES)


def asking(*tools: ToolSpec, settings: ModelSettings | None = None) -> ModelRequest:
    return ModelRequest(
        "Be brief.", [HI], NOTHING, tools, 0, settings=settings or ModelSettings(), output=SPEC
    )


async def answer(model: Any, request: ModelRequest) -> tuple[str, list[str], str]:
    """The text, the called tools, and why it ended."""
    items = [item async for item in model.stream(request)]
    text = "".join(item.delta for item in items if isinstance(item, TextDelta))
    calls = [item.tool_name for item in items if isinstance(item, ToolInputAvailable)]
    [done] = [item for item in items if isinstance(item, Done)]
    return text, calls, done.finish_reason


def in_text() -> ProviderReply:
    return ProviderReply(
        [*(chat.delta(content=piece) for piece in PIECES), chat.delta(finish="stop")], "done"
    )


def in_call(*more: bytes) -> ProviderReply:
    begun = [chat.call(0, PIECES[0], name=OUTPUT_TOOL, call_id="c0"), chat.call(0, PIECES[1])]
    return ProviderReply([*begun, *more, chat.delta(finish="tool_calls")], "done")


def open_chat(provider: FakeProvider, connections: ProviderConnections, spec: str) -> Any:
    return open_model(spec, connections, base_url=provider.base_url, api_key="k")


@pytest.mark.parametrize("spec", ["openai:gpt-5-mini", "ollama:qwen3", "vllm:some"])
async def test_a_service_with_a_field_for_the_schema_gets_it_there(
    provider: FakeProvider, connections: ProviderConnections, spec: str
) -> None:
    provider.queue(in_text())
    assert await answer(open_chat(provider, connections, spec), asking(WEATHER)) == (
        JSON,
        [],
        "stop",
    )
    [sent] = provider.requests
    named = sent["response_format"]["json_schema"]
    assert (sent["response_format"]["type"], named["name"]) == ("json_schema", "Town")
    assert set(named["schema"]["properties"]) == {"name", "people"}
    assert [one["function"]["name"] for one in sent["tools"]] == ["weather"]
    assert sent["tool_choice"] == "auto"
    in_instructions = "fits this JSON schema" in sent["messages"][0]["content"]
    assert in_instructions is spec.startswith("vllm")


async def test_a_schema_that_can_be_strict_is(
    provider: FakeProvider, connections: ProviderConnections
) -> None:
    provider.queue(in_text())
    await answer(open_chat(provider, connections, "openai:gpt-5-mini"), asking())
    named = provider.requests[0]["response_format"]["json_schema"]
    assert (named["strict"], named["schema"]["additionalProperties"]) == (True, False)


@pytest.mark.parametrize("spec", ["zai:glm-4.6", "moonshotai:kimi-k2-0711-preview"])
async def test_another_service_gets_a_tool_and_its_call_is_the_text(
    provider: FakeProvider, connections: ProviderConnections, spec: str
) -> None:
    provider.queue(in_call())
    model = open_chat(provider, connections, spec)
    assert await answer(model, asking(WEATHER)) == (JSON, [], "stop")
    [sent] = provider.requests
    assert [one["function"]["name"] for one in sent["tools"]] == [OUTPUT_TOOL, "weather"]
    assert "response_format" not in sent


async def test_a_call_of_another_tool_beside_the_output_stays_one(
    provider: FakeProvider, connections: ProviderConnections
) -> None:
    provider.queue(in_call(chat.call(1, "{}", name="weather", call_id="c1")))
    model = open_chat(provider, connections, "zai:glm-4.6")
    assert await answer(model, asking(WEATHER)) == (JSON, ["weather"], "tool-calls")


async def test_a_request_without_an_output_says_nothing_of_it(
    provider: FakeProvider, connections: ProviderConnections
) -> None:
    provider.queue(chat.text("ok"))
    request = msgspec.structs.replace(asking(WEATHER), output=None)
    await answer(CHAT.open(provider, connections), request)
    [sent] = provider.requests
    assert "response_format" not in sent
    assert sent["tool_choice"] == "auto"


async def test_anthropic_gives_its_output_by_a_tool(
    provider: FakeProvider, connections: ProviderConnections
) -> None:
    block = anthropic_frames.tool_use(0, "toolu_1", OUTPUT_TOOL, *PIECES)
    provider.queue(anthropic_frames.message(block, reason="tool_use"))
    text, calls, done = await answer(ANTHROPIC.open(provider, connections), asking(WEATHER))
    assert (text, calls, done) == (JSON, [], "stop")
    [sent] = provider.requests
    assert {one["name"] for one in sent["tools"]} == {"weather", OUTPUT_TOOL}
    assert sent["tool_choice"] == {"type": "any"}


async def test_anthropic_that_thinks_is_not_forced_and_keeps_its_instructions(
    provider: FakeProvider, connections: ProviderConnections
) -> None:
    provider.queue(anthropic_frames.message(anthropic_frames.text(0, *PIECES), reason="end_turn"))
    model = ANTHROPIC.open(provider, connections, name="claude-haiku-4-5")
    thinks = ModelSettings(thinking_budget=2_000, max_tokens=4_000)
    text, calls, _ = await answer(model, asking(settings=thinks))
    assert (text, calls) == (JSON, [])
    [sent] = provider.requests
    assert "tool_choice" not in sent or sent["tool_choice"]["type"] == "auto"
    assert "Be brief." in str(sent["system"])
    assert "people" in str(sent["output_config"])


async def test_responses_answer_by_a_tool_as_their_profile_says(
    provider: FakeProvider, connections: ProviderConnections
) -> None:
    call = responses_frames.call("fc_1", "call_1", OUTPUT_TOOL, *PIECES)
    provider.queue(responses_frames.response(call))
    text, calls, done = await answer(RESPONSES.open(provider, connections), asking())
    assert (text, calls, done) == (JSON, [], "stop")
    assert [one["name"] for one in provider.requests[0]["tools"]] == [OUTPUT_TOOL]
