"""Every provider that speaks OpenAI's protocol under its own name is called once, at its own address."""

from collections.abc import AsyncIterator, Sequence
from typing import Literal

import msgspec
import pytest

from rejoin_protocol import file_formats
from rejoin_protocol.events.chunks import FinishStep, StartStep, TextDelta
from rejoin_protocol.events.fold import fold
from rejoin_runner.models.attachment_note import note_of
from rejoin_runner.models.chat_completions.services import NEEDS_BASE_URL
from rejoin_runner.models.model import (
    Done,
    ModelError,
    ModelSettings,
    ModelUsage,
    build_question,
    collect_answer,
)
from rejoin_runner.models.providers.library_call import RESPONSES
from rejoin_runner.models.providers.provider import NO_EXTRA_PACKAGE, ProviderConnections, open_model
from tests.support.providers import google_frames, responses_frames
from tests.support.providers.dialects import Answer as SpokenAnswer
from tests.support.providers.dialects import speak
from tests.support.providers.diversion import Diverted
from tests.support.providers.profiles import GROQ, MISTRAL, ProviderProfile
from tests.support.providers.server import FakeProvider, ProviderReply, frame, text

SAID = responses_frames.response(
    responses_frames.text("msg_1", "Hel", "lo"), sums=responses_frames.usage(3, 2)
)


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as running:
        yield running


@pytest.mark.parametrize("name", NO_EXTRA_PACKAGE)
async def test_a_compatible_provider_answers_by_its_name(provider: FakeProvider, name: str) -> None:
    """It is asked over our connections, at an address of its own, with its key; the answer is counted."""
    speaks_responses = name in RESPONSES
    provider.queue(SAID if speaks_responses else text("Hel", "lo"))
    own = "http://own.example/v1" if name in NEEDS_BASE_URL else None
    async with Diverted(provider.address) as connections:
        model = open_model(f"{name}:openai/gpt-5", connections, base_url=own, api_key=f"key-of-{name}")
        said, usage = await collect_answer(model, build_question("Be kind.", "hi"))
    assert (said, usage.input_tokens, usage.output_tokens) == ("Hello", 3, 2)
    assert isinstance(usage, ModelUsage)
    assert str(usage.model) == f"{name}:openai/gpt-5"  # its price is looked up by this name
    [wanted] = connections.wanted
    assert wanted.path.endswith("/responses" if speaks_responses else "/chat/completions")
    assert (wanted.host == "own.example") is (own is not None)
    assert wanted.host != "api.openai.com"
    assert provider.keys == [f"key-of-{name}" if name == "azure" else f"Bearer key-of-{name}"]
    [request] = provider.requests
    assert request["input" if speaks_responses else "messages"][-1]["content"] == "hi"
    assert request.get("store") is (
        False if speaks_responses else None
    )  # a provider that stores answers is asked not to


@pytest.mark.parametrize("profile", [MISTRAL, GROQ], ids=lambda profile: profile.name)
async def test_a_service_is_sent_only_what_it_knows(profile: ProviderProfile) -> None:
    """A limit of tokens, a document, reasoning of an earlier answer: the bench refuses fields that the
    service does not have.
    """
    thoughts = SpokenAnswer(thoughts=["hm"], text=["ok"])
    url = file_formats.to_data_url("application/pdf", b"%PDF-1.7")
    document = {"type": "file", "mediaType": "application/pdf", "filename": "a.pdf", "url": url}
    async with FakeProvider(profile) as provider, ProviderConnections() as connections:
        provider.queue(speak(profile, thoughts), speak(profile, thoughts))
        model = open_model(f"{profile.spec}:a-model", connections, base_url=provider.base_url, api_key="k")
        asked = build_question("", "hi", settings=ModelSettings(max_tokens=100, reasoning="high"))
        said = [item async for item in model.stream(asked) if not isinstance(item, Done)]
        answered = fold([StartStep(), *said, FinishStep()]) | {"role": "assistant"}
        more = {"id": "u2", "role": "user", "parts": [document, {"type": "text", "text": "and?"}]}
        request = msgspec.structs.replace(asked, history=[*asked.history, answered, more])
        answer, usage = await collect_answer(model, request)
        assert (answer, usage.input_tokens, usage.output_tokens) == ("ok", 10, 20)
    first, second = provider.requests
    assert first["max_tokens" if profile is MISTRAL else "max_completion_tokens"] == 100
    [_, earlier, last] = second["messages"]
    assert earlier == {"role": "assistant", "content": "ok"}
    if profile is MISTRAL:
        named = {"type": "document_url", "document_url": url, "document_name": "a.pdf"}
        assert last["content"] == [named, {"type": "text", "text": "and?"}]
    else:
        left_out = note_of(document, "is left out: this model cannot read it", 8)
        assert last["content"] == f"{left_out}\n\nand?"


async def ask_gemini(frames: Sequence[bytes], ending: Literal["eof", "cut"] = "eof") -> tuple[str, Done]:
    """The text of an answer on Gemini's own wire, and its end."""
    async with FakeProvider() as provider, ProviderConnections() as connections:
        provider.queue(ProviderReply(frames, ending))
        model = open_model(
            "google:gemini-fake", connections, base_url=provider.address, api_key="k", retries_max=0
        )
        items = [item async for item in model.stream(build_question("", "hi"))]
    done = items[-1]
    assert isinstance(done, Done)
    return "".join(item.delta for item in items if isinstance(item, TextDelta)), done


async def test_gemini_s_own_wire_keeps_the_rules_of_all_others() -> None:
    """Halves of a character are joined, a blocked prompt is a content filter, usage is estimated."""
    halves = [google_frames.frame({"text": "a\ud83d"}), google_frames.frame({"text": "\ude00b"})]
    said, done = await ask_gemini([*halves, google_frames.frame(finish="STOP")])
    assert (said, done.finish_reason, done.usage.estimated) == ("a😀b", "stop", True)
    said, done = await ask_gemini([frame({"promptFeedback": {"blockReason": "SAFETY"}})])
    assert (said, done.finish_reason) == ("", "content-filter")
    for finish in ("RECITATION", "PROHIBITED_CONTENT"):
        assert (await ask_gemini([google_frames.frame(finish=finish)]))[1].finish_reason == "content-filter"


BEGUN = google_frames.frame({"text": "a"})


@pytest.mark.parametrize(
    ("frames", "ending"),
    [
        ([BEGUN], "eof"),
        ([BEGUN], "cut"),
        ([BEGUN, google_frames.frame(finish="MALFORMED_FUNCTION_CALL")], "eof"),
    ],
    ids=["no finish reason", "a broken connection", "a call that it could not write"],
)
async def test_an_answer_of_gemini_s_that_is_not_whole_is_an_error(
    frames: Sequence[bytes], ending: Literal["eof", "cut"]
) -> None:
    with pytest.raises(ModelError):
        await ask_gemini(frames, ending)
