"""The three provider protocols side by side: how each says the same output, and where it puts its input."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rejoin_runner.models.model import ModelKeyLookup
from rejoin_runner.models.providers.provider import ProviderConnections, open_model
from rejoin_runner.models.providers.provider_call import ProviderModel
from tests.support.providers import anthropic_frames, responses_frames
from tests.support.providers import server as chat
from tests.support.providers.server import FakeProvider, ProviderReply

type Request = dict[str, Any]


@dataclass(frozen=True)
class ProviderProtocol:
    """The protocol of one provider. `thinks` is an answer that reasons, has the text `Looking.` and calls
    `weather` twice.
    """

    provider: str
    name: str
    path: str
    thinks: ProviderReply
    plain: Callable[..., ProviderReply]
    begun: Sequence[bytes]
    """The frames of an answer that has said `a` and has not ended."""
    failing: bytes
    """A frame that says that the provider failed."""
    reasoning: Callable[[Request], list[Any]]
    """What of a request is the model's own reasoning."""
    results: Callable[[Request], list[Any]]
    """What of a request are the results of tools."""

    def open(
        self, at: FakeProvider, connections: ProviderConnections, name: str = "", **more: Any
    ) -> ProviderModel:
        """A model whose requests go to the fake provider."""
        base_url = at.address if self.provider == "anthropic" else at.base_url
        spec = f"{self.provider}:{name or self.name}"
        model = open_model(spec, connections, **{"base_url": base_url, "api_key": "k"} | more)
        assert isinstance(model, ProviderModel)
        return model


def _chat_reasoning(request: Request) -> list[Any]:
    return [one["reasoning_content"] for one in request["messages"] if one.get("reasoning_content")]


def _chat_results(request: Request) -> list[Any]:
    return [one for one in request["messages"] if one["role"] == "tool"]


def _blocks(request: Request, *kinds: str) -> list[Any]:
    contents = [one["content"] for one in request["messages"] if isinstance(one["content"], list)]
    return [block for content in contents for block in content if block["type"] in kinds]


def _items(request: Request, kind: str) -> list[Any]:
    return [item for item in request["input"] if item.get("type") == kind]


CHAT = ProviderProtocol(
    "openai",
    "fake",
    "/v1/chat/completions",
    ProviderReply(
        [
            chat.delta(reasoning_content="hm"),
            chat.delta(reasoning_content="m"),
            chat.delta(content="Look"),
            chat.delta(content="ing."),
            chat.call(0, "", name="weather", call_id="c0"),
            chat.call(0, '{"city": "Oslo"}'),
            chat.call(1, '{"ci', name="weather", call_id="c1"),
            chat.call(1, 'ty": "Rome"}'),
            chat.delta(finish="tool_calls"),
            chat.usage(10, 20),
        ]
    ),
    chat.text,
    [chat.delta(content="a")],
    chat.frame({"error": {"message": "secret sk-1 at 10.0.0.1", "code": "server_error"}}),
    _chat_reasoning,
    _chat_results,
)
RESPONSES = ProviderProtocol(
    "openai-responses",
    "gpt-5",
    "/v1/responses",
    responses_frames.response(
        responses_frames.reasoning("rs_1", "gAAA-encrypted", "first", "second"),
        responses_frames.text("msg_1", "Look", "ing."),
        responses_frames.call("fc_0", "c0", "weather", '{"city": "Oslo"}'),
        responses_frames.call("fc_1", "c1", "weather", '{"ci', 'ty": "Rome"}'),
        sums=responses_frames.usage(10, 20, cached=4, reasoned=6),
    ),
    lambda *pieces: responses_frames.response(responses_frames.text("msg_2", *pieces)),
    responses_frames.frames(
        [
            responses_frames.state("created", "in_progress"),
            {
                "type": "response.output_text.delta",
                "item_id": "msg_1",
                "output_index": 0,
                "content_index": 0,
                "delta": "a",
                "logprobs": [],
            },
        ]
    ),
    responses_frames.error(),
    lambda request: _items(request, "reasoning"),
    lambda request: _items(request, "function_call_output"),
)
ANTHROPIC = ProviderProtocol(
    "anthropic",
    "claude-fake",
    "/v1/messages",
    anthropic_frames.message(
        anthropic_frames.thinking(0, "hmm", "sig-1"),
        anthropic_frames.redacted(1, "redacted-1"),
        anthropic_frames.text(2, "Look", "ing."),
        anthropic_frames.tool_use(3, "c0", "weather", '{"city": "Oslo"}'),
        anthropic_frames.tool_use(4, "c1", "weather", '{"ci', 'ty": "Rome"}'),
        reason="tool_use",
        tokens_in=6,
        cached=4,
        tokens_out=20,
    ),
    lambda *pieces: anthropic_frames.message(anthropic_frames.text(0, *pieces)),
    [
        anthropic_frames.opening(),
        *anthropic_frames.text(0, "a")[:2],
    ],
    anthropic_frames.error(),
    lambda request: _blocks(request, "thinking", "redacted_thinking"),
    lambda request: _blocks(request, "tool_result"),
)
ALL = (CHAT, RESPONSES, ANTHROPIC)

REASONED: Mapping[str, list[Any]] = {
    "openai": ["hmm"],
    "openai-responses": [
        {
            "id": "rs_1",
            "type": "reasoning",
            "encrypted_content": "gAAA-encrypted",
            "summary": [
                {"type": "summary_text", "text": "first"},
                {"type": "summary_text", "text": "second"},
            ],
        }
    ],
    "anthropic": [
        {"type": "thinking", "thinking": "hmm", "signature": "sig-1"},
        {"type": "redacted_thinking", "data": "redacted-1"},
    ],
}
"""What each of them is to be sent back of `thinks`."""


def keys_of(tenants: Mapping[str, str]) -> ModelKeyLookup:
    """Keys that a test wrote down."""
    return lambda tenant, _: tenants.get(tenant)
