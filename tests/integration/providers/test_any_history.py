"""Conversations cannot be poisoned: whatever is stored, each provider answers the next turn.

The request is built as in a run and sent to the provider bench, which refuses what breaks a published rule.
"""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rejoin_adapters.memory.database.files import MemoryFileStore
from rejoin_protocol import file_formats, file_ids
from rejoin_protocol.events.chunks import FinishStep, StartStep
from rejoin_protocol.events.fold import MessageDict, fold
from rejoin_protocol.ids import TenantId
from rejoin_runner.models.context_window import ContextWindow, fit_history
from rejoin_runner.models.model import Done, Model, ModelRequest, ToolSpec, collect_answer
from rejoin_runner.models.providers.provider import ProviderConnections, open_model
from rejoin_runner.run.earlier_messages import visible_history
from rejoin_runner.run.model_files import FileInliningModel
from tests.support.data.stored_histories import FILE_KINDS, histories
from tests.support.providers.dialects import Answer, SpokenCall, speak
from tests.support.providers.profiles import OPENAI, PROFILES, ProviderProfile
from tests.support.providers.server import FakeProvider

TENANT = TenantId("acme")
WEATHER = ToolSpec("weather", "Looks.", {"type": "object", "properties": {}})
SPOKEN = Answer(
    thoughts=["hm"],
    text=["Looking."],
    calls=[SpokenCall("abcDEF123", "weather"), SpokenCall("abcDEF124", "functions.weather", ["{"])],
)
ONE_ADDRESS = ("deepseek", "openrouter")
"""Providers that cannot be asked at another address: `openai` stands for them."""
ABOUT_FILES = ("image", "file", "document", "audio", "media_type", "Supported values are")
HELLO: MessageDict = {"id": "u", "role": "user", "parts": [{"type": "text", "text": "hello"}]}
NOTHING: MessageDict = {"id": "a", "role": "assistant", "parts": []}


class Asked:
    """One provider on the bench, and a model that asks it as a run does."""

    def __init__(self, profile: ProviderProfile) -> None:
        self.profile = profile
        self.dialect = OPENAI if profile.wire == "chat" else profile
        """How it speaks: this test is about what it takes."""
        self.loop = asyncio.Runner()
        self.provider = FakeProvider(profile)
        self.connections = ProviderConnections()
        self.stored: list[str] = []
        self.own: list[MessageDict] = []
        self._model: Model | None = None

    async def open(self) -> None:
        await self.provider.__aenter__()
        with_version = self.profile.wire in ("chat", "responses")
        base = self.provider.base_url if with_version else self.provider.address
        service = "openai" if self.profile.spec in ONE_ADDRESS else self.profile.spec
        spec = f"{service}:{self.profile.name.replace(' ', '-')}"
        files = MemoryFileStore()
        for kind, data in FILE_KINDS.items():
            self.stored.append(file_ids.file_url(await files.put(TENANT, None, data, kind)))
        inner = open_model(spec, self.connections, base_url=base, api_key="k", retries_max=0)
        self._model = FileInliningModel(inner, files, TENANT)
        self.own = [await self._record_answer()]

    async def close(self) -> None:
        await self.connections.close()
        self.provider.take_violations()
        await self.provider.__aexit__(None, None, None)

    async def _record_answer(self) -> MessageDict:
        """A message that this very model wrote, with all that it attached to it."""
        self.provider.queue(speak(self.dialect, SPOKEN))
        assert self._model is not None
        request = ModelRequest("", [HELLO], NOTHING, [WEATHER], 0)
        chunks = [item async for item in self._model.stream(request)]
        said = [item for item in chunks if not isinstance(item, Done)]
        return fold([StartStep(), *said, FinishStep(), StartStep()])

    async def ask(self, request: ModelRequest) -> tuple[str, list[str]]:
        """The answer, and the rules that requests broke on the way to it."""
        self.provider.queue(speak(self.dialect, Answer(text=["ok"])))
        assert self._model is not None
        answer, _ = await collect_answer(self._model, request)
        return answer, self.provider.take_violations()


@pytest.fixture(params=PROFILES.values(), ids=lambda profile: profile.name)
def asked(request: pytest.FixtureRequest) -> Iterator[Asked]:
    one = Asked(request.param)
    with one.loop as loop:
        try:
            loop.run(one.open())
            yield one
        finally:
            loop.run(one.close())


def check(asked: Asked, data: st.DataObject) -> None:
    """Store a history, ask for the next turn: it is answered, and only a file may have been refused first."""
    history, answer = data.draw(histories(asked.own, asked.stored))
    window = ContextWindow(messages_max=data.draw(st.sampled_from([None, 1, 3])))
    waiting = {message["id"] for message in history if data.draw(st.booleans())}
    shown, _ = fit_history(visible_history(history, waiting), window)
    tools = data.draw(st.sampled_from([[WEATHER], []]))
    instructions = data.draw(st.sampled_from(["Be kind.", "", "  "]))
    request = ModelRequest(instructions, shown, answer, tools, 1, tenant=TENANT)
    said, violations = asked.loop.run(asked.ask(request))
    assert said == "ok"
    assert [one for one in violations if not any(word in one for word in ABOUT_FILES)] == []


@pytest.mark.feature("F99")
def test_each_provider_answers_the_next_turn_of_any_history(asked: Asked) -> None:
    @settings(max_examples=12)
    @given(data=st.data())
    def answers(data: st.DataObject) -> None:
        check(asked, data)

    answers()


@pytest.mark.feature("F99")
@pytest.mark.slow
def test_each_provider_answers_the_next_turn_of_very_many_histories(asked: Asked) -> None:
    @settings(max_examples=int(os.environ.get("REJOIN_HISTORIES", "60")))
    @given(data=st.data())
    def answers(data: st.DataObject) -> None:
        check(asked, data)

    answers()


MADE_FILE = {
    "type": "file",
    "mediaType": "image/png",
    "url": file_formats.to_data_url("image/png", FILE_KINDS["image/png"]),
}
TOOL: dict[str, Any] = {"type": "tool-functions.weather", "toolCallId": "c1", "input": {}}


@pytest.mark.feature("F99")
@pytest.mark.parametrize(
    "parts",
    [
        [TOOL | {"state": "output-error", "errorText": "unknown tool"}],
        [TOOL | {"state": "output-available", "output": ""}],
        [{"type": "text", "text": "\n\n"}],
        [],
        [TOOL | {"state": "output-available", "output": "seen"}, {"type": "step-start"}, MADE_FILE],
    ],
    ids=["an invented tool", "a tool without output", "a blank answer", "no answer", "a file alone"],
)
def test_the_reported_histories_are_answered(asked: Asked, parts: list[dict[str, Any]]) -> None:
    blank = {"id": "u2", "role": "user", "parts": [{"type": "text", "text": " "}]}
    answered = {"id": "a1", "role": "assistant", "parts": [{"type": "step-start"}, *parts]}
    for tools in ([WEATHER], []):
        request = ModelRequest("", [answered, HELLO, answered, blank], NOTHING, tools, 0)
        said, violations = asked.loop.run(asked.ask(request))
        assert said == "ok"
        assert [one for one in violations if not any(word in one for word in ABOUT_FILES)] == []
