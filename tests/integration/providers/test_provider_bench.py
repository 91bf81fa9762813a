"""The provider bench refuses what the real providers refuse, in their words and shapes, and fails a test."""

from typing import Any

import aiohttp
import pytest

from tests.support.providers.profiles import (
    ANTHROPIC,
    GEMINI,
    GROQ,
    MISTRAL,
    OLLAMA,
    OPENAI,
    PROFILES,
    RESPONSES,
    ProviderProfile,
)
from tests.support.providers.rules import find_violations
from tests.support.providers.server import FakeProvider, text

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "1"}
HI = {"role": "user", "content": "hi"}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
USE = {"type": "tool_use", "id": "c1", "name": "look", "input": {}}
ITEM = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look", "arguments": "{}"}


def chat(*messages: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [HI, *messages], **fields}


def named(name: str) -> dict[str, Any]:
    return TOOL | {"function": {"name": name, "parameters": {"type": "object"}}}


def claude(*messages: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": [HI, *messages], **fields}


def said(role: str, *blocks: Any) -> dict[str, Any]:
    return {"role": role, "content": list(blocks)}


def answered(**more: Any) -> dict[str, Any]:
    return said("user", {"type": "tool_result", "tool_use_id": "c1", "content": "1"} | more)


def items(*more: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "input": [{"role": "user", "content": "hi"}, *more], **fields}


OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "1"}
IMAGE_URL = {"type": "image_url", "image_url": {"url": "https://a.example/x.png"}}


@pytest.mark.parametrize(
    ("profile", "request_body"),
    [
        (OPENAI, chat(CALLS, RESULT, HI, tools=[TOOL])),
        (OPENAI, chat(said("user", {"type": "text", "text": "x"}, IMAGE_URL))),
        (
            ANTHROPIC,
            claude(said("assistant", USE), answered(), said("assistant", {"type": "text", "text": "x"})),
        ),
        (RESPONSES, items(ITEM, OUTPUT, {"role": "user", "content": "and?"})),
    ],
)
def test_a_request_that_keeps_the_rules_breaks_none(
    profile: ProviderProfile, request_body: dict[str, Any]
) -> None:
    assert find_violations(request_body, profile) == []


@pytest.mark.parametrize(
    ("profile", "request_body", "word"),
    [
        (OPENAI, {"model": "m", "messages": []}, "too short"),
        (OPENAI, chat(tools=[]), "too short"),
        (OPENAI, chat(tools=[named("a b")]), "does not match pattern"),
        (OPENAI, chat(tools=[named("x" * 65)]), "does not match pattern"),
        (OPENAI, chat(tools=[TOOL, TOOL]), "more than once"),
        (OPENAI, chat(tools=[named(f"t{n}") for n in range(129)]), "array too long"),
        (OPENAI, chat(parallel_tool_calls=True), "only allowed when 'tools'"),
        (OPENAI, chat(CALLS), "must be followed by tool messages"),
        (OPENAI, chat(CALLS, HI, RESULT), "must be followed by tool messages"),
        (OPENAI, chat(RESULT), "must be a response to"),
        (OPENAI, chat(CALLS, RESULT, RESULT), "must be a response to"),
        (OPENAI, chat(CALLS | {"tool_calls": [CALL, CALL]}, RESULT, RESULT), "Duplicate value"),
        (OPENAI, chat(CALLS | {"tool_calls": []}), "too short"),
        (OPENAI, chat({"role": "assistant", "content": None}), "expected a string, got null"),
        (OPENAI, chat({"role": "user", "content": []}), "empty array"),
        (OPENAI, chat({"role": "robot", "content": "x"}), "Supported values are"),
        (OPENAI, chat(said("assistant", IMAGE_URL)), "Invalid value: 'image_url'"),
        (OPENAI, chat(said("user", {"type": "image_url", "image_url": {"url": "file:x"}})), "image url"),
        (
            OPENAI,
            chat(CALLS | {"tool_calls": [CALL | {"function": {"name": "look", "arguments": "[1]"}}]}, RESULT),
            "expected a JSON object",
        ),
        (OLLAMA, chat(said("user", IMAGE_URL)), "invalid image input"),
        (MISTRAL, chat(CALLS, RESULT), "[a-zA-Z0-9]{9}"),
        (GROQ, chat({"role": "assistant", "content": "x", "reasoning": "y"}, HI), "is unsupported"),
        (ANTHROPIC, {"model": "m", "messages": [HI]}, "max_tokens"),
        (ANTHROPIC, claude(said("assistant", {"type": "text", "text": ""})), "must be non-empty"),
        (ANTHROPIC, claude(said("user", {"type": "text", "text": " \n"})), "non-whitespace"),
        (ANTHROPIC, claude({"role": "user", "content": " "}), "non-whitespace"),
        (ANTHROPIC, claude(system=" "), "non-whitespace"),
        (ANTHROPIC, claude(said("assistant"), HI), "non-empty content"),
        (ANTHROPIC, claude(said("assistant", USE)), "without `tool_result`"),
        (ANTHROPIC, claude(said("assistant", USE), HI), "without `tool_result`"),
        (ANTHROPIC, claude(answered()), "unexpected `tool_use_id`"),
        (
            ANTHROPIC,
            claude(
                said("assistant", USE), said("user", {"type": "text", "text": "x"}, *answered()["content"])
            ),
            "must come first",
        ),
        (ANTHROPIC, claude(said("assistant", USE | {"name": "a b"}), answered()), "tool_use.name"),
        (ANTHROPIC, claude(said("assistant", USE | {"input": "x"}), answered()), "valid dictionary"),
        (ANTHROPIC, claude(said("assistant", USE, USE), answered()), "must be unique"),
        (ANTHROPIC, claude({"role": "system", "content": "x"}), "Unexpected role"),
        (RESPONSES, {"model": "m", "input": []}, "Missing required parameter: 'input'"),
        (RESPONSES, items(ITEM), "No tool output found"),
        (RESPONSES, items(OUTPUT), "No tool call found"),
        (RESPONSES, items(ITEM | {"name": "a b"}, OUTPUT), "does not match pattern"),
        (RESPONSES, items(ITEM | {"id": "call_1"}, OUTPUT), "begins with 'fc'"),
        (RESPONSES, items({"type": "reasoning", "id": "rs_1"}), "without its following item"),
        (RESPONSES, items(said("user", {"type": "text", "text": "x"})), "Invalid value: 'text'"),
    ],
)
def test_a_broken_rule_is_named(profile: ProviderProfile, request_body: dict[str, Any], word: str) -> None:
    assert word in " ".join(find_violations(request_body, profile))


@pytest.mark.parametrize(
    ("profile", "path", "shape"),
    [
        (OPENAI, "chat/completions", {"error"}),
        (OPENAI, "messages", {"type", "error", "request_id"}),
        (MISTRAL, "chat/completions", {"object", "message", "type", "code", "raw_status_code"}),
    ],
)
async def test_a_refusal_has_the_provider_s_shape_and_fails_the_test(
    profile: ProviderProfile, path: str, shape: set[str]
) -> None:
    async def ask_badly() -> None:
        async with FakeProvider(profile) as provider, aiohttp.ClientSession() as client:
            provider.queue(text("never sent"))
            async with client.post(f"{provider.base_url}/{path}", json={"model": "m"}) as response:
                assert response.status == 400
                assert set(await response.json()) == shape

    with pytest.raises(AssertionError, match="broke the provider's rules"):
        await ask_badly()


async def test_taken_violations_do_not_fail_the_test() -> None:
    async with FakeProvider(GEMINI) as provider, aiohttp.ClientSession() as client:
        async with client.post(f"{provider.base_url}/chat/completions", json={"model": "m"}) as response:
            [error] = await response.json()
        assert error["error"]["message"] == provider.take_violations()[0]


def test_every_profile_names_its_sources() -> None:
    assert all(
        profile.sources and all("://" in url for url in profile.sources) for profile in PROFILES.values()
    )
