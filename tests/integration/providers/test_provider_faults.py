"""Faults between a runner and a provider: a retry as long as there was no output, else an error."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import pytest

from rejoin_protocol.events.chunks import TextDelta, TextEnd, TextStart
from rejoin_runner.models.model import Done, ModelChunk, ModelError, ModelRequest
from rejoin_runner.models.providers.provider import ProviderConnections
from tests.support.providers.protocols import ALL, ProviderProtocol
from tests.support.providers.server import FakeProvider, ProviderReply, failure

HI = {"id": "u1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
REQUEST = ModelRequest("", [HI], {"id": "a1", "role": "assistant", "parts": []}, [], step=0)
BEGUN = [TextStart("text-0"), TextDelta("text-0", "a")]
GIVEN_UP_AFTER_S = 20
each = pytest.mark.parametrize("speaks", ALL, ids=lambda speaks: speaks.provider)


async def outcome(
    speaks: ProviderProtocol, provider: FakeProvider, read_timeout_s: float = 5, **more: Any
) -> tuple[list[ModelChunk | Done], ModelError | None]:
    """What came, and the error it ended with. It ends in any case."""
    seen: list[ModelChunk | Done] = []
    error: ModelError | None = None
    async with (
        ProviderConnections(read_timeout_s=read_timeout_s) as connections,
        asyncio.timeout(GIVEN_UP_AFTER_S),
    ):
        try:
            async for item in speaks.open(provider, connections, **more).stream(REQUEST):
                seen.append(item)  # noqa: PERF401 - what came before the error counts
        except ModelError as fault:
            error = fault
    assert error is None or not re.search(r"sk-|127\.0|10\.0|secret|\w+Error|\n", error.detail)
    return seen, error


@each
@pytest.mark.parametrize(
    "faults",
    [
        [failure(429, retry_after="0.01"), failure(500, retry_after_ms="1")],
        [ProviderReply(ending="slam")],
        [ProviderReply(ending="cut")],
    ],
    ids=["busy, then broken", "cut off before the answer", "cut off before its first word"],
)
async def test_a_fault_before_the_first_output_is_retried(
    speaks: ProviderProtocol, provider: FakeProvider, faults: Sequence[ProviderReply]
) -> None:
    provider.queue(*faults, speaks.plain("ok"))
    seen, error = await outcome(speaks, provider)
    assert error is None
    assert [item.delta for item in seen if isinstance(item, TextDelta)] == ["ok"]
    assert len(provider.requests) == len(faults) + 1


@each
async def test_silence_before_the_first_output_is_retried_and_then_an_error(
    speaks: ProviderProtocol, provider: FakeProvider
) -> None:
    provider.queue(ProviderReply(ending="stall"), ProviderReply(ending="stall"))
    seen, error = await outcome(speaks, provider, read_timeout_s=0.1, retries_max=1)
    assert error is not None
    assert (seen, error.detail, error.retryable) == ([], "the model provider fell silent", True)
    assert len(provider.requests) == 2


@each
async def test_a_refusal_is_an_error_at_once(speaks: ProviderProtocol, provider: FakeProvider) -> None:
    provider.queue(failure(401))
    seen, error = await outcome(speaks, provider)
    assert error is not None
    assert (seen, error.detail) == ([], "the model provider answered 401 Unauthorized")
    assert not error.retryable
    assert len(provider.requests) == 1


@each
@pytest.mark.parametrize("seconds", ["3600", "Wed, 21 Oct 2099 07:28:00 GMT"])
async def test_a_retry_after_that_is_too_long_is_an_error(
    speaks: ProviderProtocol, provider: FakeProvider, seconds: str
) -> None:
    provider.queue(failure(429, retry_after=seconds))
    _, error = await outcome(speaks, provider)
    assert error is not None
    assert (error.detail, error.retryable) == ("the model provider answered 429 Too Many Requests", True)
    assert len(provider.requests) == 1


async def test_all_attempts_share_one_deadline(provider: FakeProvider) -> None:
    provider.queue(failure(429, retry_after="30"))
    _, error = await outcome(ALL[0], provider, answer_timeout_s=1)
    assert error is not None
    assert error.retryable
    assert len(provider.requests) == 1


@each
@pytest.mark.parametrize(
    "fault", ["cut", "ends early", "half a frame", "not JSON", "another shape", "an error", "silence"]
)
async def test_an_answer_that_breaks_off_is_an_error_and_keeps_its_text(
    speaks: ProviderProtocol, provider: FakeProvider, fault: str
) -> None:
    after = {
        "cut": ProviderReply(speaks.begun, "cut"),
        "ends early": ProviderReply(speaks.begun, "eof"),
        "half a frame": ProviderReply([*speaks.begun, b'event: x\ndata: {"type": "re'], "eof"),
        "not JSON": ProviderReply([*speaks.begun, b"event: message_delta\ndata: {nonsense\n\n"], "eof"),
        "another shape": ProviderReply([*speaks.begun, b"event: message_delta\ndata: [1]\n\n"], "eof"),
        "an error": ProviderReply([*speaks.begun, speaks.failing], "eof"),
        "silence": ProviderReply(speaks.begun, "stall"),
    }
    provider.queue(after[fault])
    seen, error = await outcome(speaks, provider, read_timeout_s=0.3)
    assert error is not None
    assert not error.retryable
    assert seen[:2] == BEGUN
    assert {type(item) for item in seen[2:]} <= {TextEnd}
    assert len(provider.requests) == 1


@each
@pytest.mark.parametrize("frame", [b"<html>", b"event: x\ndata: {nonsense\n\n", b"data: null\n\n"])
async def test_a_stranger_s_answer_is_an_error(
    speaks: ProviderProtocol, provider: FakeProvider, frame: bytes
) -> None:
    provider.queue(*[ProviderReply([frame], "eof")] * 3)
    seen, error = await outcome(speaks, provider)
    assert seen == []
    assert error is not None


@each
async def test_an_error_as_the_first_event_is_an_error(
    speaks: ProviderProtocol, provider: FakeProvider
) -> None:
    """An overloaded provider may say so in the stream that it has opened."""
    provider.queue(*[ProviderReply([speaks.failing], "eof")] * 3)
    seen, error = await outcome(speaks, provider, retries_max=0)
    assert seen == []
    assert error is not None
    assert error.retryable
