"""A file that a model refuses becomes a note that says what was there: no session is locked by it."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rejoin_runner.models.model import ModelError, ModelRequest, collect_answer
from rejoin_runner.models.providers.provider import ProviderConnections
from rejoin_runner.models.providers.provider_call import ProviderModel
from tests.support.providers.profiles import DEEPSEEK
from tests.support.providers.protocols import ALL, CHAT, ProviderProtocol
from tests.support.providers.server import FakeProvider, ProviderReply, text

TEXT = {"type": "text", "text": "what is this?"}
NOTHING: Any = {"id": "a", "role": "assistant", "parts": []}


def file(media_type: str, data: bytes, name: str) -> dict[str, Any]:
    url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    return {"type": "file", "mediaType": media_type, "url": url, "filename": name}


PNG = file("image/png", b"\x89PNG\r\n\x1a\n", "cat.png")
OTHER_PNG = file("image/png", b"\x89PNG\r\n\x1a\n2", "dog.png")
PDF = file("application/pdf", b"%PDF-1.7", "plan.pdf")


def asking(*parts: dict[str, Any]) -> ModelRequest:
    return ModelRequest("", [{"id": "u", "role": "user", "parts": list(parts)}], NOTHING, [], 0)


def refusal(status: int, words: str) -> ProviderReply:
    body = json.dumps({"error": {"message": words, "type": "invalid_request_error", "code": None}}).encode()
    return ProviderReply([body], status=status, headers={"content-type": "application/json"})


def files_in(request: dict[str, Any]) -> list[str]:
    """The names of the attachments that a request has as files, not as notes."""
    sent = json.dumps(request)
    files = (PNG, OTHER_PNG, PDF)
    return [one["filename"] for one in files if one["url"].partition(",")[2] + '"' in sent]


@pytest.fixture
def model(provider: FakeProvider, connections: ProviderConnections) -> ProviderModel:
    return CHAT.open(provider, connections)


@pytest.mark.feature("F99")
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "Invalid content type. image_url is only supported by certain models."),
        (404, "No endpoints found that support image input"),
        (413, "Request too large"),
        (415, "Unsupported media type"),
        (422, "validation failed"),
        (500, "image input is not supported - hint: you may need to provide the mmproj"),
    ],
)
@pytest.mark.parametrize("speaks", ALL, ids=lambda speaks: speaks.provider)
async def test_a_refused_file_becomes_a_note_and_the_answer_comes(
    provider: FakeProvider,
    connections: ProviderConnections,
    speaks: ProviderProtocol,
    status: int,
    words: str,
) -> None:
    model = speaks.open(provider, connections)
    provider.queue(refusal(status, words), speaks.plain("a cat"), speaks.plain("I forgot it"))
    answer, _ = await collect_answer(model, asking(TEXT, PNG))
    assert answer == "a cat"
    refused, accepted = provider.requests
    assert files_in(refused) == ["cat.png"]
    assert files_in(accepted) == []
    note = "[The attachment cat.png (image/png, 8 bytes) is left out: this model cannot read it.]"
    assert note in json.dumps(accepted)

    # The file is still in the history: the next turn is not refused first.
    await collect_answer(model, asking(TEXT, PNG))
    assert len(provider.requests) == 3


async def test_only_the_kind_that_is_refused_is_left_out(
    provider: FakeProvider, model: ProviderModel
) -> None:
    provider.queue(refusal(400, "no files"), text("ok"), text("ok"))
    await collect_answer(model, asking(TEXT, PNG, PDF))
    await collect_answer(model, asking(TEXT, PNG, OTHER_PNG, PDF))
    assert [files_in(request) for request in provider.requests] == [
        ["cat.png", "plan.pdf"],
        ["cat.png"],
        ["cat.png", "dog.png"],
    ]


async def test_a_damaged_image_of_one_tenant_leaves_the_images_of_others_alone(
    provider: FakeProvider, model: ProviderModel
) -> None:
    provider.queue(refusal(400, "Could not process image"), text("ok"), text("ok"))
    await collect_answer(model, asking(TEXT, PNG))
    await collect_answer(model, asking(TEXT, OTHER_PNG))
    assert files_in(provider.requests[-1]) == ["dog.png"]


async def test_a_refusal_that_is_not_about_the_files_is_an_error_and_nothing_is_learnt(
    provider: FakeProvider, model: ProviderModel
) -> None:
    provider.queue(refusal(400, "no"), refusal(400, "no"), text("ok"))
    with pytest.raises(ModelError, match="400 Bad Request"):
        await collect_answer(model, asking(TEXT, PNG))
    await collect_answer(model, asking(TEXT, PNG))
    assert [files_in(request) for request in provider.requests] == [["cat.png"], [], ["cat.png"]]


async def test_a_refusal_without_files_is_not_repeated(provider: FakeProvider, model: ProviderModel) -> None:
    provider.queue(refusal(400, "no image"))
    with pytest.raises(ModelError):
        await collect_answer(model, asking(TEXT))
    assert len(provider.requests) == 1


@pytest.fixture
async def text_only() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(DEEPSEEK) as provider:
        yield provider


async def test_a_tool_s_image_is_left_out_as_well(
    text_only: FakeProvider, connections: ProviderConnections
) -> None:
    image = {"type": "image-data", "data": PNG["url"].partition(",")[2], "mediaType": "image/png"}
    call = {
        "type": "tool-look",
        "toolCallId": "c1",
        "state": "output-available",
        "input": {},
        "output": {"type": "content", "value": [image]},
    }
    request = asking(TEXT)
    request.answer["parts"] = []
    answer = {"id": "a", "role": "assistant", "parts": [{"type": "step-start"}, call, {"type": "step-start"}]}
    text_only.queue(text("a cat"))
    model = CHAT.open(text_only, connections)
    said, _ = await collect_answer(model, ModelRequest("", request.history, answer, [], 1))
    assert said == "a cat"
    assert "this model cannot read it" in json.dumps(text_only.requests[-1])
    text_only.take_violations()
