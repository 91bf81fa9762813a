"""OpenAI's chat completions and Responses and Anthropic's Messages, served on loopback.

A provider's signatures are sent back unchanged to that provider, and to no other.
"""

from typing import Any

import msgspec
import pytest

from rejoin_protocol.events.chunks import (
    Chunk,
    ReasoningDelta,
    ReasoningEnd,
    ReasoningStart,
    ResetStep,
    StartStep,
    TextDelta,
    TextEnd,
    TextStart,
    ToolApprovalRequest,
    ToolApprovalResponse,
    ToolInputAvailable,
    ToolInputDelta,
    ToolInputStart,
    ToolOutputAvailable,
)
from rejoin_protocol.events.fold import MessageDict, fold
from rejoin_protocol.events.unfold import unfold
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest, ToolSpec, Usage
from rejoin_runner.models.providers.provider import ProviderConnections
from tests.support.providers.protocols import (
    ALL,
    ANTHROPIC,
    CHAT,
    REASONED,
    RESPONSES,
    ProviderProtocol,
)
from tests.support.providers.server import FakeProvider, ProviderReply

HI = {"id": "u1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
MORE = {"id": "u2", "role": "user", "parts": [{"type": "text", "text": "and?"}]}
NOTHING: MessageDict = {"id": "a1", "role": "assistant", "parts": []}
WEATHER = ToolSpec("weather", "Looks.", {"type": "object", "properties": {"city": {"type": "string"}}})
USAGE = {
    "openai": Usage(10, 20),
    "openai-responses": Usage(10, 20, 4, 6),
    "anthropic": Usage(10, 20, 4),
}
each = pytest.mark.parametrize("speaks", ALL, ids=lambda speaks: speaks.provider)


def asking(*history: MessageDict, answer: MessageDict = NOTHING, step: int = 0) -> ModelRequest:
    return ModelRequest("be kind", history or (HI,), answer, [WEATHER], step)


async def answer(
    speaks: ProviderProtocol,
    provider: FakeProvider,
    connections: ProviderConnections,
    request: ModelRequest,
    **more: Any,
) -> list[ModelChunk | Done]:
    """By a model that was opened for this call: it remembers nothing."""
    model = speaks.open(provider, connections, **more)
    return [item async for item in model.stream(request)]


async def first_step(
    speaks: ProviderProtocol, provider: FakeProvider, connections: ProviderConnections
) -> list[Chunk]:
    provider.queue(speaks.thinks)
    items = await answer(speaks, provider, connections, asking())
    return [StartStep(), *(item for item in items if not isinstance(item, Done))]


RESULTS = [ToolOutputAvailable("c1", "hot"), ToolOutputAvailable("c0", {"t": 1})]


@each
async def test_text_reasoning_and_parallel_calls_stream_and_are_counted(
    speaks: ProviderProtocol, provider: FakeProvider, connections: ProviderConnections
) -> None:
    provider.queue(speaks.thinks)
    items = await answer(speaks, provider, connections, asking())
    kinds = [type(item) for item in items]
    assert kinds.index(ReasoningStart) < kinds.index(ReasoningDelta) < kinds.index(ReasoningEnd)
    assert max(at for at, kind in enumerate(kinds) if kind is ReasoningEnd) < kinds.index(TextStart)
    text = [item for item in items if isinstance(item, TextStart | TextDelta | TextEnd)]
    assert [item.delta for item in text if isinstance(item, TextDelta)] == ["Look", "ing."]
    calls = [item for item in items if isinstance(item, ToolInputStart)]
    assert [(call.tool_call_id, call.tool_name) for call in calls] == [("c0", "weather"), ("c1", "weather")]
    pieces = [item for item in items if isinstance(item, ToolInputDelta) and item.tool_call_id == "c1"]
    assert [piece.input_text_delta for piece in pieces] == ['{"ci', 'ty": "Rome"}']
    ready = [item for item in items if isinstance(item, ToolInputAvailable)]
    assert [(call.tool_call_id, call.input["city"]) for call in ready] == [("c0", "Oslo"), ("c1", "Rome")]
    assert items[-1] == Done("tool-calls", USAGE[speaks.provider])
    assert provider.paths == [speaks.path]
    assert provider.keys == ["Bearer k"]


def crashed(log: list[Chunk]) -> MessageDict:
    """The message of a crashed step, read from the stored log alone."""
    torn: list[Chunk] = [StartStep(), ReasoningStart("r"), ReasoningDelta("r", "half a th"), ResetStep()]
    stored = msgspec.json.decode(msgspec.json.encode(fold([*log, *RESULTS, *torn])))
    return fold(unfold(stored))


def approved(log: list[Chunk]) -> MessageDict:
    """The message as the database kept it while a person thought about it, and then the result."""
    asked = fold([*log, ToolApprovalRequest("p1", "c0"), RESULTS[0]])
    stored = msgspec.json.decode(msgspec.json.encode(asked))
    return fold([ToolApprovalResponse("p1", approved=True), RESULTS[1]], stored)


@each
@pytest.mark.parametrize("between", ["the next step", "a crash", "an approval", "the next turn"])
async def test_what_the_model_signed_comes_back_to_it_unchanged(
    speaks: ProviderProtocol, provider: FakeProvider, connections: ProviderConnections, between: str
) -> None:
    log = await first_step(speaks, provider, connections)
    match between:
        case "the next step":
            request = asking(answer=fold([*log, *RESULTS]), step=1)
        case "a crash":
            request = asking(answer=crashed(log), step=1)
        case "an approval":
            request = asking(answer=approved(log), step=1)
        case _:
            request = asking(HI, fold([*log, *RESULTS]), MORE)
    provider.queue(speaks.plain("ok"))
    assert isinstance((await answer(speaks, provider, connections, request))[-1], Done)
    sent = provider.requests[1]
    assert speaks.reasoning(sent) == REASONED[speaks.provider]
    assert len(speaks.results(sent)) == 2


@each
async def test_reasoning_is_for_the_model_that_wrote_it_alone(
    speaks: ProviderProtocol, provider: FakeProvider, connections: ProviderConnections
) -> None:
    """Another model of the provider is not given it, and neither is another provider."""
    message = fold([*await first_step(speaks, provider, connections), *RESULTS])
    request = asking(HI, message, MORE)
    others = [(speaks, "claude-other" if speaks is ANTHROPIC else "gpt-5.1")]
    others += [(other, other.name) for other in ALL if other is not speaks]
    for other, name in others:
        provider.queue(other.plain("ok"))
        await answer(other, provider, connections, request, name=name)
        sent = provider.requests[-1]
        assert other.reasoning(sent) == []
        assert len(other.results(sent)) == 2
        raw = msgspec.json.encode(sent).decode()
        assert not [word for word in ("hmm", "sig-1", "redacted-1", "gAAA", "rs_1", "fc_1") if word in raw]
        assert "Looking." in raw


@pytest.mark.parametrize(
    ("speaks", "status_text"),
    [
        (RESPONSES, "The encrypted content for item rs_1 could not be verified."),
        (ANTHROPIC, "messages.1.content.0: Invalid `signature` in `thinking` block"),
    ],
    ids=lambda value: value.provider if isinstance(value, ProviderProtocol) else "",
)
async def test_reasoning_that_its_provider_refuses_is_left_out(
    provider: FakeProvider, connections: ProviderConnections, speaks: ProviderProtocol, status_text: str
) -> None:
    """Reasoning is bound to an account, and a key may belong to another account by now. The conversation
    continues.
    """
    message = fold([*await first_step(speaks, provider, connections), *RESULTS])
    provider.queue(refusal(status_text), speaks.plain("ok"))
    items = await answer(speaks, provider, connections, asking(answer=message, step=1), retries_max=0)
    assert isinstance(items[-1], Done)
    assert [len(speaks.reasoning(sent)) > 0 for sent in provider.requests] == [False, True, False]


def refusal(said: str) -> ProviderReply:
    body = msgspec.json.encode({"type": "error", "error": {"type": "invalid_request_error", "message": said}})
    return ProviderReply([body], "eof", status=400, headers={"content-type": "application/json"})


async def test_the_ids_of_other_providers_calls_are_made_fit_for_anthropic(
    provider: FakeProvider, connections: ProviderConnections
) -> None:
    call = {
        "type": "tool-weather",
        "toolCallId": "functions.weather:0",
        "state": "output-available",
        "input": {},
        "output": 1,
    }
    provider.queue(ANTHROPIC.plain("ok"), CHAT.plain("ok"))
    request = asking(answer=NOTHING | {"parts": [call]}, step=1)
    await answer(ANTHROPIC, provider, connections, request)
    await answer(CHAT, provider, connections, request)
    _, asked, told = provider.requests[0]["messages"]
    assert asked["content"][0]["id"] == told["content"][0]["tool_use_id"]
    assert asked["content"][0]["id"].startswith("call_")
    assert provider.requests[1]["messages"][-1]["tool_call_id"] == "functions.weather:0"
