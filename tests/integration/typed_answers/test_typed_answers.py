"""Typed answers on real servers: as events, as text, in the other APIs, and across crashes."""

import io
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec
import openai
import pytest

from rejoin.testing import ScriptedModel, call, fail, output
from rejoin_protocol.events.typed_output import OUTPUT, OUTPUT_ERROR
from rejoin_runner.agent.agent import Agent
from rejoin_runner.tools.tool_decorator import tool
from tests.support.faults.crashing_runners import crash_at_append
from tests.support.system.local_system import LocalSystem

TEXT = {"Accept": "text/plain"}


class Recipe(msgspec.Struct):
    """A recipe."""

    name: str
    steps: list[str]
    minutes: int


RECIPE = {"name": "Søup 🍲", "steps": ["Cut.", "Boil it\nwell."], "minutes": 20}
WRONG = {"name": "Søup 🍲", "steps": ["Cut."], "minutes": "long"}
OTHER = {"name": "Bread", "steps": ["Bake."], "minutes": 60}
WHOLE = msgspec.json.encode(RECIPE).decode()


@tool
async def look_up(food: str) -> str:
    """Look a recipe up."""
    return f"{food}: cut, boil"


async def serve(system: LocalSystem, model: ScriptedModel) -> str:
    cook = Agent(name=system.agent, model=model, output=Recipe, tools=[look_up], text_interval_s=0)
    await system.runner([cook], retry_delay_s=0.0)
    return await system.gateway()


async def post(
    system: LocalSystem, url: str, body: Any, headers: dict[str, str] | None = None
) -> tuple[aiohttp.ClientResponse, str]:
    data = io.BytesIO(msgspec.json.encode(body))
    all_headers = {"Content-Type": "application/json"} | (headers or {})
    async with system.http.post(url, data=data, headers=all_headers) as response:
        return response, await response.text()


async def stored(system: LocalSystem, base: str, session: str) -> dict[str, Any]:
    answer = await system.get(f"{base}/api/agents/{system.agent}/{session}")
    message: dict[str, Any] = answer.json["messages"][-1]
    return message


# ---------------------------------------------------------------------------------------- as events


@pytest.mark.feature("F105")
async def test_the_events_grow_one_part_and_the_history_has_the_whole_once(system: LocalSystem) -> None:
    base = await serve(system, ScriptedModel(output(RECIPE)))
    session = system.fresh("s")
    answer = await system.post(base, system.chat(session, "Soup"))
    parts = [chunk for chunk in answer.chunks if chunk["type"] == OUTPUT]
    assert len(parts) > 3
    assert {part["id"] for part in parts} == {"output"}
    assert parts[-1]["data"] == RECIPE
    assert not [chunk for chunk in answer.chunks if chunk["type"].startswith("text-")]
    message = await stored(system, base, session)
    assert [part for part in message["parts"] if part["type"] != "step-start"] == [
        {"type": OUTPUT, "id": "output", "data": RECIPE}
    ]
    assert message["metadata"]["outputState"] == "done"


@pytest.mark.slow
@pytest.mark.feature("F105")
@pytest.mark.parametrize("is_stored", [False, True], ids=["before it is stored", "after it is stored"])
async def test_a_runner_that_dies_at_any_append_leaves_one_whole_output(
    system: LocalSystem, *, is_stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong answer, a tool, and the right one: two steps are repeated somewhere, and one part results."""
    crash = crash_at_append(monkeypatch, stored=is_stored)
    script = (output(WRONG), call("look_up", food="soup"), output(RECIPE)) * 40
    base = await serve(system, ScriptedModel(*script))
    for at in range(16):
        session = system.fresh("s")
        crash.next(at)
        await system.post(base, system.chat(session, "Soup"))
        message = await stored(system, base, session)
        kinds = [part["type"] for part in message["parts"]]
        assert [part["data"] for part in message["parts"] if part["type"] == OUTPUT] == [RECIPE], at
        assert kinds.count(OUTPUT_ERROR) == 1, at
        assert message["metadata"]["outputState"] == "done", at


# ------------------------------------------------------------------------------------------ as text

URLS: list[Callable[[LocalSystem], tuple[str, Any]]] = [
    lambda _: ("/api/object", "Soup"),
    lambda _: ("/api/object", {"prompt": "Soup"}),
    lambda _: ("/api/object", {"food": "soup"}),
    lambda _: ("/api/completion", {"prompt": "Soup"}),
    lambda system: ("/api/chat", system.chat(system.fresh("s"), "Soup")),
    lambda system: (f"/api/agents/{system.agent}/{system.fresh('s')}", {"message": "Soup"}),
]


@pytest.mark.feature("F105")
async def test_the_text_of_a_typed_answer_is_its_json_on_every_route(system: LocalSystem) -> None:
    """Also after a tool and the words before it."""
    script: list[Any] = [["I look.", call("look_up", food="soup")], output(RECIPE)]
    base = await serve(system, ScriptedModel(*script * len(URLS)))
    for place in URLS:
        path, body = place(system)
        response, text = await post(system, base + path, body, TEXT)
        assert (response.status, text) == (200, WHOLE), path
        assert response.content_type == "text/plain"
        assert "x-vercel-ai-ui-message-stream" not in response.headers


async def test_the_model_reads_what_submit_was_called_with(system: LocalSystem) -> None:
    model = ScriptedModel(*([output(RECIPE)] * 3))
    base = await serve(system, model)
    for body in ("Soup", {"prompt": "Soup", "more": 1}, {"food": ["soup"]}):
        await post(system, f"{base}/api/object", body)
    said = [request.history[-1]["parts"][0]["text"] for request in model.requests]
    assert said == ["Soup", "Soup", '{"food":["soup"]}']


async def test_a_completion_is_events_unless_the_client_accepts_text_alone(system: LocalSystem) -> None:
    base = await system.gateway()
    await system.runner()
    for accept in ("*/*", "text/event-stream", "application/json, text/plain, */*"):
        response, text = await post(
            system, f"{base}/api/completion", {"prompt": "count 3"}, {"Accept": accept}
        )
        assert response.content_type == "text/event-stream"
        assert '"delta":"1"' in text
    response, text = await post(system, f"{base}/api/completion", {"prompt": "count 3"}, TEXT)
    assert (response.content_type, text) == ("text/plain", "1 2 3")


async def test_a_text_answer_is_resumed_as_text(system: LocalSystem) -> None:
    base = await system.gateway()
    await system.runner()
    session = system.fresh("s")
    async with system.http.post(
        f"{base}/api/chat", json=system.chat(session, "count 20 every 30 ms"), headers=TEXT
    ) as first:
        await first.content.readany()
    again = await system.get(f"{base}/api/chat/{session}/stream", **TEXT)
    assert again.raw.decode() == " ".join(str(number) for number in range(1, 21))


async def test_an_answer_that_fits_at_the_second_try_breaks_the_text_and_nothing_else(
    system: LocalSystem,
) -> None:
    """A text cannot be taken back: the client gets a network error, and the whole text when it asks again."""
    base = await serve(system, ScriptedModel(output(WRONG), output(OTHER)))
    session = system.fresh("s")
    with pytest.raises(aiohttp.ClientPayloadError):
        await post(system, f"{base}/api/object", {"prompt": "Soup", "id": session})
    async with system.http.get(f"{base}/api/agents/{system.agent}/{session}/reconnect") as response:
        await response.read()
    message = await stored(system, base, session)
    assert [part["data"] for part in message["parts"] if part["type"] == OUTPUT] == [OTHER]


async def test_a_second_try_that_repeats_the_first_goes_on_in_the_same_text(system: LocalSystem) -> None:
    """What was sent is a beginning of the right answer."""
    base = await serve(system, ScriptedModel('{"name": "Søup 🍲", "steps": ["Cut."', output(RECIPE)))
    response, text = await post(system, f"{base}/api/object", "Soup")
    assert (response.status, text) == (200, WHOLE)


async def test_a_run_that_fails_before_its_first_text_is_an_error_with_its_words(system: LocalSystem) -> None:
    base = await serve(system, ScriptedModel(fail("The provider is away.")))
    response, text = await post(system, f"{base}/api/object", "Soup")
    assert (response.status, text) == (500, "The provider is away.")
    assert response.headers["x-should-retry"] == "false"


async def test_a_run_that_fails_later_breaks_the_connection(system: LocalSystem) -> None:
    base = await serve(system, ScriptedModel(['{"name": "Soup"', fail("The provider is away.")]))
    with pytest.raises(aiohttp.ClientPayloadError):
        await post(system, f"{base}/api/object", "Soup")


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/api/completion", {}, ""),
        ("/api/completion", {"prompt": " "}, "/prompt"),
        ("/api/completion", {"prompt": "x" * (1024 * 1024 + 1)}, "/prompt"),
        ("/api/object", {"prompt": 7}, "/prompt"),
        ("/api/object", "", "/prompt"),
        ("/api/object", None, ""),
    ],
)
async def test_what_is_no_prompt_is_refused(system: LocalSystem, path: str, body: Any, pointer: str) -> None:
    base = await system.gateway()
    await system.runner()
    response, text = await post(system, base + path, body)
    assert response.status == 400
    assert msgspec.json.decode(text)["errors"][0]["pointer"] == pointer


# -------------------------------------------------------------------------------- in the other APIs


@pytest.mark.feature("F105")
async def test_whole_answers_of_the_other_apis_have_the_json_as_their_text(system: LocalSystem) -> None:
    model = ScriptedModel(*([output(WRONG), output(RECIPE)] * 5))
    base = await serve(system, model)
    said: Any = [{"role": "user", "content": "Soup"}]
    _, text = await post(system, f"{base}/run/api/chat", {"messages": said, "stream": False})
    assert msgspec.json.decode(text)["choices"][0]["message"]["content"] == WHOLE
    client = openai.AsyncOpenAI(base_url=f"{base}/run/v1", api_key="none", max_retries=0)
    async with client:
        made = await client.chat.completions.create(model=system.agent, messages=said)
        assert made.choices[0].message.content == WHOLE
        streamed = await client.chat.completions.create(model=system.agent, messages=said, stream=True)
        pieces = [one.choices[0].delta.content or "" async for one in streamed if one.choices]
        assert "".join(pieces) == WHOLE
        response = await client.responses.create(model=system.agent, input="Soup")
        assert response.output_text == WHOLE
        deltas = ""
        async for event in await client.responses.create(model=system.agent, input="Soup", stream=True):
            deltas += event.delta if event.type == "response.output_text.delta" else ""
        assert deltas == WHOLE
