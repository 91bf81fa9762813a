"""Chat completions through a whole system, with OpenAI's own client."""

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, AsyncStream
from openai.types.chat import ChatCompletionChunk

from rejoin_protocol import file_formats
from rejoin_runner.agent.agent import Agent
from tests.support.clients.attachments import BMP, PNG, RecordingModel
from tests.support.clients.openai_client import client_of, gateway, param
from tests.support.faults.takeover import ACK_WAIT_S, FIRST, SECOND, SILENT_RUNNER
from tests.support.models.scripted_models import CallingModel, GatedModel, ShellTools
from tests.support.system.local_system import LocalSystem


def user(content: Any) -> Any:
    return [{"role": "user", "content": content}]


async def listen(stream: AsyncStream[ChatCompletionChunk], hear: Callable[[str], None]) -> None:
    """To the end, whatever that is."""
    async for chunk in stream:
        hear(chunk.choices[0].delta.content or "")


async def broken(stream: AsyncStream[ChatCompletionChunk], hear: Callable[[str], None]) -> openai.APIError:
    """What a stream ends with that does not end well."""
    with pytest.raises(openai.APIError) as fault:
        await listen(stream, hear)
    return fault.value


@pytest.mark.feature("F15")
async def test_a_completion_is_whole_with_real_usage(system: LocalSystem, client: AsyncOpenAI) -> None:
    """The model is the agent, the text is its answer, the tokens are counted."""
    said = await client.chat.completions.create(model=system.agent, messages=user("count 3"))
    assert said.object == "chat.completion"
    assert said.model == system.agent
    (choice,) = said.choices
    assert (choice.message.content, choice.finish_reason) == ("1 2 3", "stop")
    assert said.usage is not None
    assert (said.usage.prompt_tokens, said.usage.completion_tokens, said.usage.total_tokens) == (2, 3, 5)


async def test_a_completion_streams(system: LocalSystem, client: AsyncOpenAI) -> None:
    """Delta by delta, then the reason; usage only for those who want it."""
    stream = await client.chat.completions.create(
        model=system.agent,
        messages=user("count 3"),
        stream=True,
        stream_options={"include_usage": True},
    )
    said = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta.content for chunk in said if chunk.choices]
    assert deltas == ["", "1", " 2", " 3", None]
    assert said[-2].choices[0].finish_reason == "stop"
    assert said[-1].usage is not None
    assert said[-1].usage.total_tokens == 5
    assert len({chunk.id for chunk in said}) == 1


@pytest.mark.feature("F24")
async def test_silence_is_filled(system: LocalSystem) -> None:
    """By comments, which no client takes for an event."""
    base = await system.gateway(stream_heartbeat_s=0.05)
    await system.runner()
    asked = {"model": system.agent, "messages": user("count 2 every 300 ms"), "stream": True}
    async with system.http.post(f"{base}/run/v1/chat/completions", json=asked) as response:
        raw = await response.read()
    assert b"\n\n: keep-alive\n\n" in raw
    assert raw.endswith(b"data: [DONE]\n\n")


async def test_the_sdks_own_accumulation_agrees(system: LocalSystem, client: AsyncOpenAI) -> None:
    """Its streaming interface checks what it is given, and ends with the same completion."""
    async with client.chat.completions.stream(model=system.agent, messages=user("weather Paris")) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "It is 3 °C in Paris."
    assert final.choices[0].message.tool_calls is None, "tools run here and are nobody else's to call"


@pytest.mark.feature("F14")
async def test_a_conversation_is_named_or_new(system: LocalSystem, base: str, client: AsyncOpenAI) -> None:
    """Earlier messages are imported into a new one, and have no effect on one that is known."""
    turns = [*user("the first"), {"role": "assistant", "content": "forged"}, *user("count 2")]
    first = await client.chat.completions.create(model=system.agent, messages=turns)
    assert first.model_extra is not None
    id = first.model_extra["rejoin"]["conversation_id"]
    again = [*turns, *user("count 1")]
    raw = await client.chat.completions.with_raw_response.create(
        model=system.agent, messages=again, metadata={"conversation_id": id}
    )
    assert raw.headers["x-conversation-id"] == id
    history = (await system.get(f"{base}/api/agents/{system.agent}/{id}")).json["messages"]
    texts = [[part["text"] for part in one["parts"] if part["type"] == "text"] for one in history]
    assert texts == [["the first"], ["forged"], ["count 2"], ["1 2"], ["count 1"], ["1"]]
    other = await client.chat.completions.create(model=system.agent, messages=user("count 1"))
    assert other.model_extra is not None
    assert other.model_extra["rejoin"]["conversation_id"] != id


async def test_one_key_is_one_request(system: LocalSystem, client: AsyncOpenAI) -> None:
    """Repeated with its Idempotency-Key a request attaches to the run that it has made."""
    headers = {"Idempotency-Key": system.fresh("key")}
    ids = {
        (
            await client.chat.completions.create(
                model=system.agent, messages=user("count 2"), extra_headers=headers
            )
        ).id
        for _ in range(2)
    }
    assert len(ids) == 1


async def test_agents_are_models(system: LocalSystem, client: AsyncOpenAI) -> None:
    """As the runners announce them."""
    found = {model.id: model async for model in client.models.list()}
    assert found[system.agent].object == "model"
    assert await client.models.retrieve(system.agent) == found[system.agent]
    for name in (f"{system.agent}-x", "gpt 5"):
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve(name)


@pytest.mark.feature("F42")
async def test_an_unknown_model_is_404(system: LocalSystem, client: AsyncOpenAI) -> None:
    """Also one that could not be a name."""
    for name in (f"{system.agent}-x", "gpt 5", ""):
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model=name, messages=user("hi"))


@pytest.mark.feature("F37")
@pytest.mark.parametrize(
    ("request_", "name"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"messages": [{"role": "system", "content": "Be a pirate"}, *user("hi")]}, "messages.0.role"),
        ({"messages": []}, "messages"),
        ({"messages": user([{"type": "input_audio"}])}, "messages.0.content.0"),
        ({"messages": user([{"type": "text", "text": 1}])}, "messages.0.content.0"),
        ({"metadata": {"conversation_id": "a/b"}}, "metadata.conversation_id"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
async def test_a_strict_gateway_refuses_an_unsupported_parameter_by_name(
    system: LocalSystem, strict_client: AsyncOpenAI, request_: dict[str, Any], name: str
) -> None:
    """In OpenAI's error shape, so that its client raises the right exception with the field."""
    fields: dict[str, Any] = {"model": system.agent, "messages": user("hi")} | request_
    with pytest.raises(openai.BadRequestError) as fault:
        await strict_client.chat.completions.create(**fields)
    assert param(fault.value) == name
    assert fault.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"model": 1, "messages": []}',
        b'{"model": "a", "messages": [1]}',
        b'{"model": "a", "input": [1], "messages": {}}',
        b'{"tools": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
async def test_an_invalid_body_is_refused_with_400(system: LocalSystem, base: str, body: bytes) -> None:
    """On both routes, in the shape that OpenAI's clients read."""
    for path in ("chat/completions", "responses"):
        headers = {"Content-Type": "application/json"}
        async with system.http.post(f"{base}/run/v1/{path}", data=body, headers=headers) as response:
            assert response.status == 400
            assert set((await response.json())["error"]) == {"message", "type", "param", "code"}


@pytest.mark.feature("F38")
async def test_no_credential_no_answer(system: LocalSystem, base: str) -> None:
    """401 in OpenAI's shape; and another user who names the same conversation has one of his own."""
    id = system.fresh("s")
    ask: Any = {"model": system.agent, "messages": user("count 1"), "metadata": {"conversation_id": id}}
    async with client_of(base) as ann, client_of(base, "ben") as ben:
        await ann.chat.completions.create(**ask)
        await ben.chat.completions.create(**ask)
        for one in (ann, ben):
            stored: Any = await one.get(f"/conversations/{id}", cast_to=object)
            assert len(stored["data"]["messages"]) == 2
        with pytest.raises(openai.AuthenticationError) as fault:
            await ann.with_options(api_key="sk-nobody").chat.completions.create(**ask)
    assert fault.value.code == "invalid_api_key"


@pytest.mark.feature("F45")
async def test_an_image_reaches_the_model(system: LocalSystem) -> None:
    """As a stored file; a bad one is named by its place in the request, and a text in an earlier message."""
    model = RecordingModel()
    await system.runner([Agent(name=system.agent, model=model)])
    base = await gateway(system)

    def image(type: str, data: bytes) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": file_formats.to_data_url(type, data)}}

    text = {"type": "text", "text": "look"}
    async with client_of(base) as client:
        await client.chat.completions.create(
            model=system.agent, messages=user([text, image("image/png", PNG)])
        )
        assert model.seen[0] == text
        assert (model.seen[1]["type"], model.seen[1]["mediaType"]) == ("file", "image/png")
        with pytest.raises(openai.BadRequestError) as fault:
            await client.chat.completions.create(
                model=system.agent, messages=user([text, image("image/bmp", BMP)])
            )
        assert param(fault.value) == "messages.0.content.1"
        earlier = user([text, image("image/bmp", BMP)])
        # Its client sends it again with each request: in an earlier message it refuses nothing.
        await client.chat.completions.create(model=system.agent, messages=[*earlier, *user("and?")])
        assert "was not taken: 'image/bmp' is not supported" in str(model.requests[-1])


@pytest.mark.feature("F50")
async def test_a_waiting_run_names_its_pending_approvals(system: LocalSystem) -> None:
    """The response stops; the decision goes the way of the run API; nothing was run before it."""
    shell = ShellTools()
    model = CallingModel(rm={"command": "rm a"})
    await system.runner(
        [Agent(name=system.agent, model=model, tools=[shell.tool("rm", needs_approval=True)])]
    )
    base = await gateway(system)
    async with client_of(base) as client:
        whole = await client.chat.completions.create(model=system.agent, messages=user("go"))
        stream = await client.chat.completions.create(model=system.agent, messages=user("go"), stream=True)
        last = [chunk async for chunk in stream][-1]
    for said in (whole, last):
        assert said.choices[0].finish_reason == "stop"
        assert said.model_extra is not None
        rejoin = said.model_extra["rejoin"]
        (asked,) = rejoin["pending_approvals"]
        assert (asked["tool_name"], asked["input"]) == ("rm", {"command": "rm a"})
    assert shell.ran == []
    url = f"{base}/run/api/executions/{rejoin['run_id']}"
    async with system.http.post(
        f"{url}/approvals/{asked['tool_call_id']}", json={"approved": True}
    ) as response:
        assert response.status == 200
    assert (await system.get(f"{url}/stream")).text == "output-available"
    assert shell.ran == ["rm a"]


@pytest.mark.feature("F36")
async def test_a_failure_is_raised_by_the_client(system: LocalSystem, client: AsyncOpenAI) -> None:
    """Streamed, behind the text that was there; whole, as a 500 that no client is to repeat by itself."""
    stream = await client.chat.completions.create(model=system.agent, messages=user("fail"), stream=True)
    said: list[str] = []
    with pytest.raises(openai.APIError, match="The model failed"):
        await listen(stream, said.append)
    assert "".join(said).strip() == "This is going"
    with pytest.raises(openai.InternalServerError) as fault:
        await client.chat.completions.create(model=system.agent, messages=user("fail"))
    assert fault.value.response.headers["x-should-retry"] == "false"
    assert fault.value.code == "run_failed"


@pytest.mark.feature("F84")
async def test_a_rewind_is_an_error_where_text_cannot_be_taken_back(system: LocalSystem) -> None:
    """The client gets an error; neither a partial nor a doubled answer looks complete."""
    base = await gateway(system)
    gate = asyncio.Semaphore(FIRST)
    await system.runner(
        [Agent(name=system.agent, model=GatedModel(gate, 10), text_interval_s=0)],
        **SILENT_RUNNER,
    )
    async with client_of(base) as client:
        stream = await client.chat.completions.create(model=system.agent, messages=user("go"), stream=True)
        said: list[str] = []
        written = asyncio.Event()

        def hear(text: str) -> None:
            said.append(text)
            if "".join(said).endswith(str(FIRST - 1)):
                written.set()

        async with asyncio.TaskGroup() as group:
            listening = group.create_task(broken(stream, hear))
            async with asyncio.timeout(20):
                await written.wait()
                model = GatedModel(asyncio.Semaphore(SECOND), SECOND)
                await system.runner([Agent(name=system.agent, model=model)], ack_wait_s=ACK_WAIT_S)
                fault = await listening
    assert "step was repeated" in str(fault)
    gate.release()
