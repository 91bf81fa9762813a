"""What a provider gets besides the messages (keys, options, files), and what else it returns."""

import base64
import sys
from typing import Any

import pytest
from pydantic_ai.models.anthropic import AnthropicModel

from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.chunks import File, SourceDocument, SourceUrl, TextDelta
from rejoin_protocol.events.fold import MessageDict
from rejoin_runner.models.chat_completions.services import NEEDS_BASE_URL
from rejoin_runner.models.fallback import Fallback
from rejoin_runner.models.model import (
    Done,
    ModelChunk,
    ModelError,
    ModelRequest,
    ModelSettings,
    ToolSpec,
    build_question,
    collect_answer,
)
from rejoin_runner.models.providers.provider import (
    NEEDS_EXTRA_PACKAGE,
    NO_EXTRA_PACKAGE,
    ProviderConnections,
    open_model,
)
from rejoin_runner.models.providers.provider_call import ProviderModel
from tests.support.providers import anthropic_frames, responses_frames
from tests.support.providers.protocols import ALL, ANTHROPIC, CHAT, RESPONSES, ProviderProtocol
from tests.support.providers.server import FakeProvider, ProviderReply, delta, failure, frame, text

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
IMAGE = {"type": "file", "mediaType": "image/png", "url": f"data:image/png;base64,{PNG}"}
HI = {"id": "u1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
NOTHING: MessageDict = {"id": "a1", "role": "assistant", "parts": []}
WEATHER = ToolSpec("weather", "Looks.", {"type": "object", "properties": {}})
each = pytest.mark.parametrize("speaks", ALL, ids=lambda speaks: speaks.provider)


def asking(
    *history: MessageDict,
    tenant: str = "",
    settings: ModelSettings | None = None,
    answer: MessageDict = NOTHING,
) -> ModelRequest:
    return ModelRequest("", history or (HI,), answer, [WEATHER], 0, tenant, settings or ModelSettings())


async def answer(model: Any, request: ModelRequest) -> list[ModelChunk | Done]:
    return [item async for item in model.stream(request)]


# ---------------------------------------------------------------------------------------------- keys


@each
async def test_one_opened_model_serves_every_tenant_with_its_own_key(
    speaks: ProviderProtocol, provider: FakeProvider, connections: ProviderConnections
) -> None:
    asked: list[tuple[str, str]] = []

    def keys(tenant: str, name: str) -> str | None:
        asked.append((tenant, name))
        return {"acme": "key-a", "bolt": "key-b"}.get(tenant)

    model = speaks.open(provider, connections, api_key="ours", tenant_key_lookup=keys)
    for tenant in ("acme", "bolt", "acme", "other", ""):
        provider.queue(speaks.plain("ok"))
        await answer(model, asking(tenant=tenant))
    expected = ["key-a", "key-b", "key-a", "ours", "ours"]
    assert provider.keys == [f"Bearer {key}" for key in expected]
    assert asked[0] == ("acme", speaks.provider)


async def test_keys_may_be_looked_up_where_that_takes_time(
    provider: FakeProvider, connections: ProviderConnections
) -> None:
    async def keys(tenant: str, name: str) -> str | None:
        return f"{tenant}-{name}"

    provider.queue(text("ok"))
    await answer(CHAT.open(provider, connections, tenant_key_lookup=keys), asking(tenant="acme"))
    assert provider.keys == ["Bearer acme-openai"]


async def test_a_tenant_without_a_key_is_an_error_and_nobody_else_s_is_used() -> None:
    async with ProviderConnections() as connections:
        model = open_model("openai:gpt-5", connections, tenant_key_lookup=lambda *_: None)
        with pytest.raises(ModelError, match="there is no API key for openai") as caught:
            await answer(model, asking(tenant="acme"))
    assert not caught.value.retryable


# ---------------------------------------------------------------------------------------- settings


EVERYTHING = ModelSettings(
    temperature=0.5,
    top_p=0.9,
    stop=["END"],
    max_tokens=99,
    parallel_tool_calls=False,
    extra={"metadata": {"user_id": "u"}},
)


@each
async def test_settings_reach_the_provider_in_its_own_words(
    speaks: ProviderProtocol, provider: FakeProvider, connections: ProviderConnections
) -> None:
    provider.queue(speaks.plain("ok"))
    model = speaks.open(provider, connections, name="other" if speaks is RESPONSES else "")
    await answer(model, asking(settings=EVERYTHING))
    (sent,) = provider.requests
    assert sent["temperature"] == 0.5
    assert sent.get("top_p") == (None if speaks is ANTHROPIC else 0.9)  # it takes one of the two
    stops = {"openai": "stop", "anthropic": "stop_sequences"}  # OpenAI's responses know none
    assert speaks is RESPONSES or sent[stops[speaks.provider]] == ["END"]
    assert sent["metadata"] == {"user_id": "u"}
    limit = {"openai": "max_completion_tokens", "openai-responses": "max_output_tokens"}
    assert sent[limit.get(speaks.provider, "max_tokens")] == 99
    if speaks is ANTHROPIC:
        assert sent["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    else:
        assert sent["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("speaks", "settings", "expected"),
    [
        (CHAT, ModelSettings(reasoning="low"), {"reasoning_effort": "low"}),
        (RESPONSES, ModelSettings(reasoning="high"), {"reasoning": {"effort": "high"}}),
        (
            RESPONSES,
            ModelSettings(reasoning="low", show_reasoning=True),
            {"reasoning": {"effort": "low", "summary": "auto"}},
        ),
        (RESPONSES, ModelSettings(), {"store": False, "include": ["reasoning.encrypted_content"]}),
        (
            ANTHROPIC,
            ModelSettings(thinking_budget=2048, reasoning="low"),
            {"thinking": {"type": "enabled", "budget_tokens": 2048}},
        ),
        (
            ANTHROPIC,
            ModelSettings(thinking_budget=2048, temperature=0.5, top_p=0.5),
            {"temperature": None, "top_p": None},
        ),
        (ANTHROPIC, ModelSettings(top_p=0.5), {"temperature": None, "top_p": 0.5}),
        (CHAT, ModelSettings(thinking_budget=2048), {"thinking": None}),
        (
            CHAT,
            ModelSettings(reasoning="low", temperature=0.5, top_p=0.5, stop=["END"]),
            {"temperature": None, "top_p": None, "stop": None},
        ),
    ],
    ids=lambda value: value.provider if isinstance(value, ProviderProtocol) else "",
)
async def test_how_hard_to_think_is_said_as_the_provider_counts(
    provider: FakeProvider,
    connections: ProviderConnections,
    speaks: ProviderProtocol,
    settings: ModelSettings,
    expected: dict[str, Any],
) -> None:
    provider.queue(speaks.plain("ok"))
    model = speaks.open(provider, connections, name="gpt-5" if speaks is CHAT else "")
    await answer(model, asking(settings=settings))
    (sent,) = provider.requests
    assert {name: sent.get(name) for name in expected} == expected


async def test_a_library_that_cannot_be_told_to_ask_once_is_not_told(
    provider: FakeProvider, connections: ProviderConnections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It warns of every call else: those of Hugging Face, xAI and Bedrock cannot."""
    monkeypatch.setattr(AnthropicModel, "unsupported_settings", frozenset({"max_retries"}))
    provider.queue(ANTHROPIC.plain("ok"))
    done = (await answer(ANTHROPIC.open(provider, connections), asking()))[-1]
    assert isinstance(done, Done)


# ------------------------------------------------------------------------------------------- files


def pictures(sent: dict[str, Any]) -> list[str]:
    """Every image in a request, as base64, wherever the provider wants it."""
    found: list[str] = []

    def walk(value: Any) -> None:
        match value:
            case {"type": "image_url", "image_url": {"url": str() as url}}:
                found.append(url.partition("base64,")[2])
            case {"type": "input_image", "image_url": str() as url}:
                found.append(url.partition("base64,")[2])
            case {"type": "image", "source": {"data": str() as data}}:
                found.append(data)
            case dict():
                for one in value.values():
                    walk(one)
            case list():
                for one in value:
                    walk(one)

    walk(sent)
    return found


@pytest.mark.feature("F49")
@each
async def test_an_image_of_the_user_reaches_the_model(
    speaks: ProviderProtocol, provider: FakeProvider, connections: ProviderConnections
) -> None:
    provider.queue(speaks.plain("a dot"))
    turn = HI | {"parts": [*HI["parts"], IMAGE]}
    await answer(speaks.open(provider, connections, name=vision(speaks)), asking(turn))
    assert pictures(provider.requests[0]) == [PNG]


def vision(speaks: ProviderProtocol) -> str:
    return "" if speaks is ANTHROPIC else "gpt-5"


@each
@pytest.mark.parametrize("kind", ["media", "image-data"])
async def test_an_image_that_a_tool_returned_reaches_the_model(
    speaks: ProviderProtocol, provider: FakeProvider, connections: ProviderConnections, kind: str
) -> None:
    output = {
        "type": "content",
        "value": [
            {"type": "text", "text": "the chart"},
            {"type": kind, "data": PNG, "mediaType": "image/png"},
        ],
    }
    call = {
        "type": "tool-weather",
        "toolCallId": "c1",
        "state": "output-available",
        "input": {},
        "output": output,
    }
    provider.queue(speaks.plain("a dot"))
    model = speaks.open(provider, connections, name=vision(speaks))
    await answer(model, asking(answer=NOTHING | {"parts": [call]}))
    assert pictures(provider.requests[0]) == [PNG]
    (result,) = speaks.results(provider.requests[0])
    assert "the chart" in str(result)


async def test_a_file_that_the_model_made_is_part_of_the_answer(
    provider: FakeProvider, connections: ProviderConnections
) -> None:
    provider.queue(
        responses_frames.response(
            responses_frames.image("ig_1", PNG), responses_frames.text("msg_1", "Here.")
        )
    )
    items = await answer(RESPONSES.open(provider, connections), asking())
    metadata = {"openai-responses": {"model": "gpt-5", "id": "ig_1"}}
    assert items[0] == File(IMAGE["url"], "image/png", metadata)


# ----------------------------------------------------------------------------------------- sources


CITED = {"type": "url_citation", "url": "https://a.example/x", "title": "A", "start_index": 0, "end_index": 2}


async def test_sources_come_once_each_after_the_text_that_rests_on_them(
    provider: FakeProvider, connections: ProviderConnections
) -> None:
    file = {"type": "file_citation", "file_id": "file-1", "filename": "plan.pdf", "index": 1}
    provider.queue(
        responses_frames.response(responses_frames.text("msg_1", "ok", annotations=[CITED, CITED, file]))
    )
    items = await answer(RESPONSES.open(provider, connections), asking())
    assert [item for item in items if isinstance(item, SourceUrl | SourceDocument)] == [
        SourceUrl("source-0-1", "https://a.example/x", "A"),
        SourceDocument("source-0-2", "text/plain", "plan.pdf", "plan.pdf"),
    ]


async def test_the_sources_of_chat_completions_and_of_anthropic_come_too(
    provider: FakeProvider, connections: ProviderConnections
) -> None:
    annotation = {"type": "url_citation", "url_citation": {key: CITED[key] for key in CITED if key != "type"}}
    provider.queue(
        ProviderReply([delta(content="ok"), delta(annotations=[annotation]), delta(finish="stop")])
    )
    items = await answer(CHAT.open(provider, connections), asking())
    assert SourceUrl("source-0-1", "https://a.example/x", "A") in items
    location = {
        "type": "char_location",
        "cited_text": "it is",
        "document_index": 0,
        "document_title": "plan.pdf",
        "start_char_index": 0,
        "end_char_index": 5,
        "file_id": None,
    }
    provider.queue(anthropic_frames.message(anthropic_frames.text(0, "It is.", citations=[location])))
    items = await answer(ANTHROPIC.open(provider, connections), asking())
    assert SourceDocument("source-0-1", "text/plain", "plan.pdf", "plan.pdf") in items


# ------------------------------------------------------------------------------ names and fallbacks


async def test_several_names_are_a_fallback(provider: FakeProvider, connections: ProviderConnections) -> None:
    model = open_model("openai:a, openai:b", connections, base_url=provider.base_url, retries_max=0)
    assert isinstance(model, Fallback)
    provider.queue(failure(503), text("ok"))
    items = await answer(model, asking())
    assert [item.delta for item in items if isinstance(item, TextDelta)] == ["ok"]
    assert [sent["model"] for sent in provider.requests] == ["a", "b"]


async def test_keys_may_differ_by_provider() -> None:
    async with ProviderConnections() as connections:
        keys = {"openai": "a", "anthropic": "b"}
        model = open_model("openai:gpt-5,anthropic:claude-fake", connections, api_key=keys)
        assert isinstance(model, Fallback)
        with pytest.raises(Invalid, match="anthropic needs an API key"):
            open_model("openai:gpt-5,anthropic:claude-fake", connections, api_key={"openai": "a"})
        with pytest.raises(Invalid, match="one base URL cannot serve the several providers"):
            open_model("openai:a,anthropic:b", connections, base_url="http://localhost")
        with pytest.raises(Invalid, match="one API key cannot serve the several providers"):
            open_model("openai:a,anthropic:b", connections, api_key="k")


@pytest.mark.parametrize(
    ("setting", "sent"),
    [
        ("openai=sk-1==,anthropic=sk-2", "sk-1=="),
        (" anthropic=sk-2, openai=sk-1 ", "sk-1"),
        ("sk-1", "sk-1"),
        ("a=b", "a=b"),
        ("openai=sk-1,b", "openai=sk-1,b"),
    ],
)
async def test_a_setting_may_name_the_providers_of_its_keys(
    provider: FakeProvider, connections: ProviderConnections, setting: str, sent: str
) -> None:
    provider.queue(text("ok"))
    await answer(CHAT.open(provider, connections, api_key=setting), asking())
    assert provider.keys == [f"Bearer {sent}"]


async def test_a_key_of_another_provider_is_none() -> None:
    async with ProviderConnections() as connections:
        with pytest.raises(Invalid, match="openai needs an API key"):
            open_model("openai:gpt-5", connections, api_key="anthropic=sk-2")


@pytest.mark.parametrize("name", NO_EXTRA_PACKAGE)
async def test_a_compatible_provider_opens_by_its_name(name: str) -> None:
    async with ProviderConnections() as connections:
        address = "http://127.0.0.1:9/v1" if name in NEEDS_BASE_URL else None
        model = open_model(f"{name}:openai/gpt-5", connections, api_key="k", base_url=address)
        assert isinstance(model, ProviderModel)


PACKAGES = ("boto3", "cohere", "google.genai", "huggingface_hub", "xai_sdk")


@pytest.mark.parametrize(("name", "package"), list(zip(NEEDS_EXTRA_PACKAGE, PACKAGES, strict=True)))
async def test_a_provider_without_its_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    for imported in [one for one in sys.modules if one.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, imported)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"pydantic_ai.providers.{name}", raising=False)
    async with ProviderConnections() as connections:
        with pytest.raises(Invalid, match=rf"not installed: pip install 'pydantic-ai-slim\[{name}\]'"):
            open_model(f"{name}:some-model", connections, api_key="k")


@pytest.mark.parametrize(
    ("spec", "base_url", "detail"),
    [
        ("ollama:llama", None, "ollama needs a base URL"),
        ("together:llama", "http://127.0.0.1:9", "together has one address"),
        ("together:llama", None, "together needs an API key"),
        ("", None, "unknown model ''"),
        ("openrouter:gpt-5", None, "openrouter cannot be used: OpenRouter model names must be prefixed"),
    ],
)
async def test_a_model_that_cannot_be_opened_is_named(spec: str, base_url: str | None, detail: str) -> None:
    async with ProviderConnections() as connections:
        with pytest.raises(Invalid, match=detail):
            open_model(spec, connections, base_url=base_url, api_key={"openrouter": "k"})


async def test_a_question_is_one_call_without_tools_and_past(
    provider: FakeProvider, connections: ProviderConnections
) -> None:
    provider.queue(text("Par", "is"))
    said, _ = await collect_answer(
        CHAT.open(provider, connections), build_question("Be brief.", "Capital of France?")
    )
    assert said == "Paris"
    (sent,) = provider.requests
    assert "tools" not in sent
    assert sent["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Capital of France?"},
    ]


async def test_frames_that_are_none_of_ours_do_no_harm(
    provider: FakeProvider, connections: ProviderConnections
) -> None:
    """Some services put comments and frames without choices between the others."""
    odd = [
        b": still here\n\n",
        frame({"id": "x", "object": "other", "choices": [], "created": 1, "model": "m"}),
    ]
    provider.queue(ProviderReply([*odd, delta(content="ok"), delta(finish="stop")]))
    items = await answer(CHAT.open(provider, connections), asking())
    assert [item.delta for item in items if isinstance(item, TextDelta)] == ["ok"]
