"""Every kind of part that a model may emit, in streams and in the history; and usage."""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from rejoin_protocol.events import chunks
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest, Usage
from rejoin_runner.tools.tool_decorator import tool
from tests.support.system.local_system import Answer, LocalSystem

MADE: list[ModelChunk] = [
    chunks.ReasoningStart(id="t"),  # the same id as the text's: they are numbered apart
    chunks.ReasoningDelta(id="t", delta="Well "),
    chunks.ReasoningDelta(id="t", delta="now", provider_metadata={"p": {"x": 1}}),
    chunks.ReasoningEnd(id="t", provider_metadata={"p": {"signature": "s"}}),
    chunks.SourceUrl(source_id="1", url="https://example.org", title="Example"),
    chunks.SourceDocument(source_id="2", media_type="application/pdf", title="Paper", filename="a.pdf"),
    chunks.File(url="data:text/plain,x", media_type="text/plain"),
    chunks.TextStart(id="t"),
    chunks.TextDelta(id="t", delta="Here "),
    chunks.TextDelta(id="t", delta="it is"),
    chunks.TextEnd(id="t"),
    chunks.ToolInputStart(tool_call_id="c", tool_name="add"),
    chunks.ToolInputDelta(tool_call_id="c", input_text_delta='{"a": '),
    chunks.ToolInputDelta(tool_call_id="c", input_text_delta="[1, 2]}"),
    chunks.ToolInputAvailable(tool_call_id="c", tool_name="add", input={"a": [1, 2]}),
]


@tool
def add(a: list[int]) -> int:
    """Add."""
    return sum(a)


class Everything:
    """Makes one of each, and then an end of it."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`."""
        if request.step == 0:
            for chunk in MADE:
                yield chunk
            yield Done("tool-calls", Usage(10, 5, cached_input_tokens=4))
        else:
            yield Done("stop", Usage(20, 7))


async def ask(system: LocalSystem) -> tuple[Answer, dict[str, Any]]:
    await system.runner([Agent(name=system.agent, model=Everything(), tools=[add])])
    base, session = await system.gateway(), system.fresh("s")
    answer = await system.post(base, system.chat(session, "hi"))
    history = await system.get(f"{base}/api/agents/{system.agent}/{session}")
    return answer, history.json["messages"][-1]


@pytest.mark.feature("F21")
async def test_every_kind_of_part_is_forwarded_and_stored(system: LocalSystem) -> None:
    """Each event is a chunk of the protocol, and parts open and close in order."""
    answer, message = await ask(system)
    assert answer.complete
    assert all(chunks.decode(frame.data) for frame in answer.frames[:-1])
    kinds = [chunk["type"] for chunk in answer.chunks]
    for chunk in MADE:
        assert msgspec.to_builtins(chunk)["type"] in kinds
    for opened in ("text-start", "reasoning-start"):
        [id] = [chunk["id"] for chunk in answer.chunks if chunk["type"] == opened]
        ends = [chunk["type"] for chunk in answer.chunks if chunk.get("id") == id]
        of_kind = [kind for kind in ends if kind.startswith(opened.partition("-")[0])]
        assert (of_kind[0], of_kind[-1]) == (opened, opened.replace("start", "end"))
    parts = [part for part in message["parts"] if part["type"] not in {"data-operation", "step-start"}]
    assert [part["type"] for part in parts] == [
        "reasoning",
        "source-url",
        "source-document",
        "file",
        "text",
        "tool-add",
    ]
    assert (parts[0]["text"], parts[0]["providerMetadata"]) == ("Well now", {"p": {"signature": "s"}})
    assert (parts[4]["text"], parts[5]["output"]) == ("Here it is", 3)


@pytest.mark.feature("F33")
async def test_the_input_s_deltas_are_its_input(system: LocalSystem) -> None:
    answer, _ = await ask(system)
    tools = [chunk for chunk in answer.chunks if chunk["type"].startswith("tool-")]
    assert [chunk["type"] for chunk in tools] == [
        "tool-input-start",
        "tool-input-delta",
        "tool-input-delta",
        "tool-input-available",
        "tool-output-available",
    ]
    written = "".join(chunk["inputTextDelta"] for chunk in tools[1:3])
    assert msgspec.json.decode(written) == tools[3]["input"] == {"a": [1, 2]}
    assert tools[4]["output"] == 3


@pytest.mark.feature("F22")
async def test_usage_is_told_at_each_step_and_summed_over_the_run(system: LocalSystem) -> None:
    answer, message = await ask(system)
    told = [one["messageMetadata"]["usage"] for one in answer.chunks if one["type"] == "message-metadata"]
    first = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15, "cachedInputTokens": 4}
    both = {"inputTokens": 30, "outputTokens": 12, "totalTokens": 42, "cachedInputTokens": 4}
    assert told == [first, both]
    assert message["metadata"]["usage"] == both
    assert answer.chunks[-1] == {
        "type": "finish",
        "finishReason": "stop",
        "messageMetadata": {"usage": both},
    }
