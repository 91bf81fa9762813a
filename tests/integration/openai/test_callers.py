"""What OpenAI's clients set for their own run: instructions, sampling, the form of the answer, tools.

What has no effect is named in the response.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from rejoin import Agent, Callers, ModelSettings
from rejoin.testing import ScriptedModel, call
from rejoin_runner.agent.callers import CALLER_NOTE
from tests.integration.openai.test_tools import FLAT, LOCATE, TOOLS, outputs, places, said, user
from tests.support.clients.openai_client import client_of, gateway
from tests.support.faults.takeover import ACK_WAIT_S, SILENT_RUNNER
from tests.support.models.scripted_models import GatedModel
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until

OWN = "You sell shoes."


class Place(BaseModel):
    """Where somebody is."""

    city: str
    size: Literal["large", "small"]


OSLO = '{"city": "Oslo", "size": "large"}'


@pytest.fixture
async def base(system: LocalSystem) -> str:
    return await gateway(system)


@pytest.fixture
async def client(base: str) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(base) as one:
        yield one


async def served(system: LocalSystem, *script: Any, **more: Any) -> ScriptedModel:
    model = ScriptedModel(*script)
    await system.runner([Agent(name=system.agent, model=model, instructions=OWN, **more)])
    return model


def framed(text: str) -> str:
    return f"{OWN}\n\n{CALLER_NOTE}\n<caller_instructions>\n{text}\n</caller_instructions>"


@pytest.mark.feature("F118")
async def test_a_completion_has_the_callers_instructions_and_sampling(
    system: LocalSystem, client: AsyncOpenAI
) -> None:
    """Of this request alone; what has no effect is named, and nothing of it is in the conversation."""
    own = ModelSettings(temperature=0.1, max_tokens=50)
    model = await served(system, "Hello.", "Again.", model_settings=own)
    raw = await client.chat.completions.with_raw_response.create(
        model=system.agent,
        messages=[
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "ho"},
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "and?"},
        ],
        temperature=1.5,
        top_p=0.5,
        max_completion_tokens=500,
        stop=["END"],
        user="ann",
        store=False,
        seed=1,
        n=1,
        metadata={"team": "a"},
    )
    assert raw.headers["rejoin-ignored"] == "metadata, seed, store, user"
    rejoin: Any = raw.parse().model_extra
    [asked] = model.requests
    assert asked.instructions == framed("Be kind.\n\nBe brief.")
    assert [message["role"] for message in asked.history] == ["user", "assistant", "user"]
    assert asked.settings == ModelSettings(temperature=1.0, top_p=0.5, max_tokens=50, stop=("END",))
    named = {"conversation_id": rejoin["rejoin"]["conversation_id"]}
    raw = await client.chat.completions.with_raw_response.create(
        model=system.agent, messages=[user("and now?")], metadata=named
    )
    assert "rejoin-ignored" not in raw.headers
    assert (model.requests[1].instructions, model.requests[1].settings) == (OWN, own)


async def test_a_response_has_the_callers_instructions_and_sampling(
    system: LocalSystem, client: AsyncOpenAI
) -> None:
    """Also a streamed one, whose header names what has no effect."""
    model = await served(system, "Hello.")
    async with client.responses.with_streaming_response.create(
        model=system.agent,
        input=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        instructions="Be kind.",
        temperature=0.2,
        max_output_tokens=20,
        truncation="auto",
        include=["reasoning.encrypted_content"],
        stream=True,
    ) as raw:
        assert raw.headers["rejoin-ignored"] == "include, truncation"
        async for _ in raw.iter_bytes():
            pass
    [asked] = model.requests
    assert asked.instructions == framed("Be kind.\n\nBe brief.")
    assert asked.settings == ModelSettings(temperature=0.2, max_tokens=20)


@pytest.mark.feature("F118")
async def test_an_answer_has_the_form_that_the_client_asks_for(
    system: LocalSystem, client: AsyncOpenAI
) -> None:
    """Both of the SDK's `parse`. An answer that does not fit goes back to the model."""
    model = await served(system, '{"city": 1}', OSLO, OSLO, OSLO, "Hello.")
    parsed = await client.chat.completions.parse(
        model=system.agent, messages=[user("Where?")], response_format=Place
    )
    assert parsed.choices[0].message.parsed == Place(city="Oslo", size="large")
    assert model.requests[0].output is not None
    assert (model.requests[0].output.name, len(model.requests)) == ("Place", 2)
    response = await client.responses.parse(model=system.agent, input="Where?", text_format=Place)
    assert response.output_parsed == Place(city="Oslo", size="large")
    async with client.responses.stream(model=system.agent, input="Where?", text_format=Place) as stream:
        async for _ in stream:
            pass
        streamed = await stream.get_final_response()
    assert streamed.output_parsed == Place(city="Oslo", size="large")
    plain = await client.chat.completions.create(model=system.agent, messages=[user("hi")])
    assert said(plain).content == "Hello."


async def test_any_json_object_is_a_form_too(system: LocalSystem, client: AsyncOpenAI) -> None:
    await served(system, 'Of course: {"a"', '{"a": [1]}')
    answer = await client.chat.completions.create(
        model=system.agent, messages=[user("JSON, please")], response_format={"type": "json_object"}
    )
    assert said(answer).content == '{"a":[1]}'


async def test_an_agent_with_a_form_of_its_own_keeps_it(system: LocalSystem, client: AsyncOpenAI) -> None:
    await served(system, '{"shoe": 40}', output={"type": "object", "properties": {"shoe": {}}})
    raw = await client.chat.completions.with_raw_response.create(
        model=system.agent, messages=[user("hi")], response_format={"type": "json_object"}
    )
    assert raw.headers["rejoin-ignored"] == "response_format"
    assert said(raw.parse()).content == '{"shoe":40}'


async def test_every_agent_takes_the_tools_of_openais_clients(
    system: LocalSystem, client: AsyncOpenAI
) -> None:
    """And the form of the answer holds for what comes after the calls."""
    model = await served(system, LOCATE, OSLO, LOCATE, OSLO)
    messages: list[Any] = [user("Where am I?")]
    create: Any = client.chat.completions.parse
    asked = await create(model=system.agent, messages=messages, tools=TOOLS, response_format=Place)
    assert asked.choices[0].finish_reason == "tool_calls"
    messages += outputs(asked, "Oslo")
    answer = await create(model=system.agent, messages=messages, tools=TOOLS, response_format=Place)
    assert answer.choices[0].message.parsed == Place(city="Oslo", size="large")
    assert model.requests[1].output == model.requests[0].output is not None
    first = await client.responses.create(model=system.agent, input="Where?", tools=FLAT, instructions="Hm.")
    [wanted] = [item for item in first.output if item.type == "function_call"]
    given: Any = {"type": "function_call_output", "call_id": wanted.call_id, "output": "Oslo"}
    await client.responses.create(model=system.agent, input=[given], previous_response_id=first.id)
    assert model.requests[3].instructions == framed("Hm.")


async def test_an_agent_that_takes_nothing_answers_all_the_same(
    system: LocalSystem, client: AsyncOpenAI
) -> None:
    model = await served(system, "Hello.", callers=None)
    raw = await client.chat.completions.with_raw_response.create(
        model=system.agent,
        messages=[{"role": "system", "content": "Be a pirate."}, user("hi")],
        temperature=0.2,
        tools=TOOLS,
        tool_choice="auto",
        response_format={"type": "json_object"},
    )
    assert raw.headers["rejoin-ignored"] == "response_format, temperature, tools, messages.0"
    [asked] = model.requests
    assert (asked.instructions, asked.settings, list(asked.tools), asked.output) == (
        OWN,
        ModelSettings(),
        [],
        None,
    )


async def test_an_agent_limits_what_callers_choose(system: LocalSystem, client: AsyncOpenAI) -> None:
    """Tools of the assistant-ui kind are another matter: `client_tools` says it."""
    callers = Callers(instructions=False, temperature_max=0.4, max_tokens=30, tools=False)
    model = await served(system, "Hello.", callers=callers)
    raw = await client.chat.completions.with_raw_response.create(
        model=system.agent, messages=[user("hi")], temperature=0.9, max_tokens=100, tools=TOOLS
    )
    assert raw.headers["rejoin-ignored"] == "tools"
    assert model.requests[0].settings == ModelSettings(temperature=0.4, max_tokens=30)


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"n": 2}, "n"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"temperature": "warm"}, "temperature"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, "schema"),
        ({"messages": [user("hi"), {"role": "system", "content": "a" * 200_000}]}, "messages.1.content"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0"),
    ],
)
async def test_what_cannot_be_right_is_refused_by_its_place(
    system: LocalSystem, client: AsyncOpenAI, fields: dict[str, Any], place: str
) -> None:
    await served(system, "Never.")
    create: Any = client.chat.completions.create
    with pytest.raises(openai.BadRequestError) as fault:
        await create(**({"model": system.agent, "messages": [user("hi")]} | fields))
    assert isinstance(fault.value.body, dict)
    assert str(fault.value.body["param"]).endswith(place)


async def test_a_runner_that_takes_over_has_the_same_options(system: LocalSystem, base: str) -> None:
    first, second = GatedModel(asyncio.Semaphore(0), 1, []), ScriptedModel(OSLO)
    await system.runner([Agent(name=system.agent, model=first, instructions=OWN)], **SILENT_RUNNER)
    async with client_of(base) as client, asyncio.TaskGroup() as group:
        answering = group.create_task(
            client.chat.completions.parse(
                model=system.agent,
                messages=[{"role": "system", "content": "Be kind."}, user("Where?")],
                temperature=0.2,
                tools=TOOLS,
                response_format=Place,
            )
        )
        await wait_until(lambda: bool(first.asked), "the first runner's call of its model")
        await system.runner([Agent(name=system.agent, model=second, instructions=OWN)], ack_wait_s=ACK_WAIT_S)
        answer = await answering
    assert answer.choices[0].message.parsed == Place(city="Oslo", size="large")
    [taken_over] = second.requests
    assert taken_over.instructions == framed("Be kind.")
    assert taken_over.settings.temperature == 0.2
    assert taken_over.output is not None
    assert [one.name for one in taken_over.tools] == ["Locate"]


async def test_options_apply_to_the_agent_that_talks_to_the_client(
    system: LocalSystem, client: AsyncOpenAI
) -> None:
    """A delegated agent is asked by another agent; one that takes over the conversation has its own word."""
    helper = ScriptedModel("In Oslo.")
    model = await served(
        system,
        call("delegate_to_helper", task="Where?"),
        call("transfer_to_closed"),
        delegates=[Agent(name="helper", model=helper, instructions="Help.")],
        handoffs=[(closed := Agent(name="closed", model=ScriptedModel("Done."), callers=None))],
    )
    await client.chat.completions.create(
        model=system.agent,
        messages=[{"role": "system", "content": "Be kind."}, user("Where?")],
        temperature=0.2,
        tools=TOOLS,
    )
    assert model.requests[1].instructions == framed("Be kind.")
    assert (helper.requests[0].instructions, helper.requests[0].settings) == ("Help.", ModelSettings())
    assert list(helper.requests[0].tools) == []
    assert isinstance(closed.model, ScriptedModel)
    assert (closed.model.requests[0].instructions, list(closed.model.requests[0].tools)) == ("", [])


async def test_the_form_of_the_answer_holds_for_whoever_gives_it(
    system: LocalSystem, client: AsyncOpenAI
) -> None:
    closed = ScriptedModel(OSLO)
    await served(
        system,
        call("transfer_to_closed"),
        handoffs=[Agent(name="closed", model=closed, callers=None)],
    )
    parsed = await client.chat.completions.parse(
        model=system.agent, messages=[user("Where?")], response_format=Place
    )
    assert parsed.choices[0].message.parsed == Place(city="Oslo", size="large")
    assert closed.requests[0].output is not None


# ------------------------------------------------------------------------- paths and errors of OpenAI


async def test_the_apis_are_under_v1_too(system: LocalSystem, base: str) -> None:
    await served(system, "Hello.", "Hello.", "Hello.")
    async with client_of(base) as named:
        client = named.with_options(base_url=f"{base}/v1")
        assert [model.id async for model in client.models.list()].count(system.agent) == 1
        assert (await client.models.retrieve(system.agent)).id == system.agent
        answer = await client.chat.completions.create(model=system.agent, messages=[user("hi")])
        assert said(answer).content == "Hello."
        response = await client.responses.create(model=system.agent, input="hi", background=True)
        async for _ in await client.responses.retrieve(response.id, stream=True):
            pass
        whole = await client.responses.retrieve(response.id)
        assert (whole.status, whole.output_text) == ("completed", "Hello.")
        assert (await named.responses.retrieve(response.id)) == whole
        assert (await client.responses.cancel(response.id)).status == "completed"
        assert len((await client.responses.input_items.list(response.id)).data) == 1


async def test_what_is_not_there_is_a_404_in_openais_words(system: LocalSystem, base: str) -> None:
    await served(system, "Never.")
    async with client_of(base) as named:
        for path in ("/v1", "/run/v1"):
            client = named.with_options(base_url=base + path)
            for asked, url in (
                (client.embeddings.create(model="a", input="hi"), "embeddings"),
                (client.images.generate(prompt="a shoe"), "images/generations"),
                (client.audio.speech.create(model="a", voice="alloy", input="hi"), "audio/speech"),
                (client.completions.create(model="a", prompt="hi"), "completions"),
            ):
                with pytest.raises(openai.NotFoundError, match=f"there is no {path}/{url} here") as fault:
                    await asked
                assert (fault.value.code, fault.value.type) == ("unknown_url", "invalid_request_error")
            with pytest.raises(openai.NotFoundError) as fault:
                await client.chat.completions.create(model="gpt-5", messages=[user("hi")])
            assert fault.value.code == "model_not_found"


async def test_a_limit_is_the_error_that_the_client_knows(system: LocalSystem) -> None:
    await served(system, "Hello.")
    async with client_of(await gateway(system, requests_per_minute=1)) as client:
        await client.models.list()
        with pytest.raises(openai.RateLimitError) as fault:
            await client.models.list()
    assert (fault.value.code, fault.value.type) == ("rate_limit_exceeded", "requests")
    assert int(fault.value.response.headers["retry-after"]) >= 1


# ------------------------------------------------------------------------------- bodies of generic clients

SEARCH = {
    "type": "function",
    "function": {
        "name": "search_web",
        "description": "Search the web.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}
SYSTEM = {"role": "system", "content": "Be kind."}
HI = {"role": "user", "content": "hi"}
BODIES: dict[str, tuple[dict[str, Any], str | None]] = {
    "Open WebUI: a chat with a model's parameters": (
        {
            "stream": True,
            "messages": [SYSTEM, {"role": "user", "content": [{"type": "text", "text": "hi"}]}],
            "temperature": 0.8,
            "top_p": 0.9,
            "max_tokens": 100,
            "frequency_penalty": 0.1,
            "seed": 42,
            "stop": ["END"],
            "reasoning_effort": "low",
            "stream_options": {"include_usage": True},
            "tools": [SEARCH],
        },
        "frequency_penalty, seed, reasoning_effort",
    ),
    "Open WebUI: the title of a chat": (
        {"stream": False, "messages": [HI], "max_completion_tokens": 1000},
        None,
    ),
    "LibreChat": (
        {
            "stream": True,
            "messages": [SYSTEM, HI],
            "user": "66f0c0ffee",
            "temperature": 1,
            "top_p": 1,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "stream_options": {"include_usage": True},
        },
        "user",
    ),
    "n8n: an agent, by LangChain": (
        {
            "stream": False,
            "messages": [SYSTEM, HI],
            "temperature": 0.7,
            "top_p": 1,
            "frequency_penalty": 0,
            "presence_penalty": 0,
            "n": 1,
            "max_tokens": 100,
            "tools": [SEARCH],
            "response_format": {"type": "text"},
            "reasoning_effort": "medium",
        },
        "reasoning_effort",
    ),
}


@pytest.mark.parametrize("client_name", BODIES)
async def test_generic_clients_are_answered(system: LocalSystem, base: str, client_name: str) -> None:
    """What their sources send, word for word; the header names what has no effect."""
    model = await served(system, "Hello.")
    body, ignored = BODIES[client_name]
    async with client_of(base) as client:
        headers = {"Authorization": f"Bearer {client.api_key}"}
    asked = {"model": system.agent, **body}
    async with system.http.post(f"{base}/v1/chat/completions", json=asked, headers=headers) as response:
        assert (response.status, response.headers.get("Rejoin-Ignored")) == (200, ignored)
        text = await response.text()
    assert "Hello." in text
    assert text.endswith("data: [DONE]\n\n") == body["stream"]
    assert model.requests[0].instructions == (framed("Be kind.") if SYSTEM in body["messages"] else OWN)
    assert [tool.name for tool in model.requests[0].tools] == (["search_web"] if "tools" in body else [])


async def test_the_conversation_of_a_generic_client_goes_on_with_its_calls(
    system: LocalSystem, client: AsyncOpenAI
) -> None:
    """It repeats everything each time, with calls of other models among it."""
    model = await served(system, LOCATE, places)
    foreign = {"id": "call_x", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages: list[Any] = [
        SYSTEM,
        user("before"),
        {"role": "assistant", "content": "", "tool_calls": [foreign]},
        {"role": "tool", "tool_call_id": "call_x", "content": "1"},
        {"role": "assistant", "content": "Done."},
        user("Where am I?"),
    ]
    asked = await client.chat.completions.create(model=system.agent, messages=messages, tools=TOOLS)
    messages += outputs(asked, "Oslo")
    answer = await client.chat.completions.create(model=system.agent, messages=messages, tools=TOOLS)
    assert said(answer).content == "You are in Oslo."
    assert [message["role"] for message in model.requests[0].history] == ["user", "assistant", "user"]
