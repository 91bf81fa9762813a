"""Client tools in OpenAI's APIs, with OpenAI's own client: functions that it brings, calls, outputs."""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, pydantic_function_tool
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from rejoin import Agent, client_tool
from rejoin.testing import ScriptedModel, call
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol.ids import RunId
from tests.support.agents.travel_tools import book, weather
from tests.support.clients.openai_client import client_of, gateway
from tests.support.system.local_system import LocalSystem

pytestmark = pytest.mark.feature("F104")


class Accuracy(BaseModel):
    """How well."""

    metres: int


class Locate(BaseModel):
    """Find out where the user is."""

    accuracy: Accuracy


TOOLS: Any = [pydantic_function_tool(Locate)]
FLAT: Any = [{"type": "function", "strict": True, **TOOLS[0]["function"]}]
LOCATE = call("Locate", accuracy={"metres": 5})


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def said(completion: ChatCompletion) -> Any:
    return completion.choices[0].message


def output_of(request: Any, name: str = "Locate") -> Any:
    [part] = [part for part in request.answer["parts"] if part["type"] == f"tool-{name}"]
    return part["output"]


def places(request: Any) -> str:
    return f"You are in {output_of(request)}."


async def served(system: LocalSystem, *script: Any, **more: Any) -> ScriptedModel:
    """A runner with an agent that takes the tools of requests."""
    model = ScriptedModel(*script)
    fields: dict[str, Any] = {"client_tools": "request", "tools": [weather, book]} | more
    await system.runner([Agent(name=system.agent, model=model, **fields)])
    return model


@pytest.fixture
async def client(system: LocalSystem) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(await gateway(system)) as one:
        yield one


def outputs(asked: ChatCompletion, text: str) -> list[Any]:
    """What the documentation's loop appends: the message as it came, and an output for each call."""
    calls = said(asked).tool_calls or []
    return [said(asked), *({"role": "tool", "tool_call_id": one.id, "content": text} for one in calls)]


async def test_the_loop_of_the_documentation(system: LocalSystem, client: AsyncOpenAI) -> None:
    """Two conversations at a time whose model gives its calls the same ids; the outputs reach their own."""
    model = await served(system, [LOCATE, call("weather", city="Rome")], [LOCATE], places, places)
    ask = client.chat.completions.create
    chats: list[list[Any]] = [[user("Where am I?")], [user("And I?")]]
    asked = [await ask(model=system.agent, messages=chat, tools=TOOLS) for chat in chats]
    [offered] = [one for one in model.requests[0].tools if one.name == "Locate"]
    assert offered.input_schema == TOOLS[0]["function"]["parameters"]
    for chat, one in zip(chats, asked, strict=True):
        assert (one.choices[0].finish_reason, said(one).content) == ("tool_calls", None)
        [wanted] = said(one).tool_calls
        assert (wanted.type, wanted.function.name) == ("function", "Locate")
        assert Locate.model_validate_json(wanted.function.arguments).accuracy.metres == 5
        chat.extend(outputs(one, "Oslo" if one is asked[0] else "Rome"))
    answers = [await ask(model=system.agent, messages=chat, tools=TOOLS) for chat in reversed(chats)]
    assert [said(one).content for one in answers] == ["You are in Rome.", "You are in Oslo."]
    assert [one.choices[0].finish_reason for one in answers] == ["stop", "stop"]
    assert len({one.id for one in (*asked, *answers)}) == 4


async def test_each_completion_counts_its_own_tokens(system: LocalSystem, client: AsyncOpenAI) -> None:
    await served(system, [LOCATE, "Wait. "], "You are in Oslo.")
    messages: list[Any] = [user("Where am I?")]
    asked = await client.chat.completions.create(model=system.agent, messages=messages, tools=TOOLS)
    messages += outputs(asked, "Oslo")
    answer = await client.chat.completions.create(model=system.agent, messages=messages, tools=TOOLS)
    assert asked.usage is not None
    assert answer.usage is not None
    assert said(asked).content == "Wait. "
    assert (asked.usage.completion_tokens, answer.usage.completion_tokens) == (2, 4)


async def test_the_sdks_own_stream_collects_the_calls(system: LocalSystem, client: AsyncOpenAI) -> None:
    """Its accumulation checks what it is given; both requests stream."""
    await served(system, ["I ask.", LOCATE, LOCATE], places_of_all)
    messages: list[Any] = [user("Where am I?")]
    async with client.chat.completions.stream(
        model=system.agent, messages=messages, tools=TOOLS, stream_options={"include_usage": True}
    ) as stream:
        events = [event async for event in stream]
        asked = await stream.get_final_completion()
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert [one.parsed_arguments.accuracy.metres for one in done] == [5, 5]  # type: ignore[attr-defined]
    assert (said(asked).content, asked.choices[0].finish_reason) == ("I ask.", "tool_calls")
    calls = said(asked).tool_calls
    messages += [{"role": "assistant", "content": "I ask.", "tool_calls": [c.to_dict() for c in calls]}]
    for one, city in zip(calls, ("Oslo", "Rome"), strict=True):
        part = [{"type": "text", "text": city}]
        messages.append({"role": "tool", "tool_call_id": one.id, "content": part})
    async with client.chat.completions.stream(
        model=system.agent, messages=messages, tools=TOOLS, stream_options={"include_usage": True}
    ) as stream:
        answer = await stream.get_final_completion()
    assert said(answer).content == "Oslo, Rome"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2


def places_of_all(request: Any) -> str:
    return ", ".join(part["output"] for part in request.answer["parts"] if part["type"] == "tool-Locate")


async def test_repeated_outputs_are_the_same_answer_and_others_a_conflict(
    system: LocalSystem, client: AsyncOpenAI
) -> None:
    model = await served(system, LOCATE, places)
    asked = await client.chat.completions.create(
        model=system.agent, messages=[user("Where am I?")], tools=TOOLS
    )
    messages: list[Any] = [user("Where am I?"), *outputs(asked, "Oslo")]
    for _ in range(2):
        answer = await client.chat.completions.create(model=system.agent, messages=messages)
        assert said(answer).content == "You are in Oslo."
    assert len(model.requests) == 2
    messages[-1]["content"] = "Rome"
    with pytest.raises(openai.ConflictError):
        await client.chat.completions.create(model=system.agent, messages=messages)


async def test_the_answer_comes_when_the_log_of_the_call_has_expired(
    system: LocalSystem, client: AsyncOpenAI
) -> None:
    """A week later: the tools are stored with the run, the call with its message."""
    model = await served(system, LOCATE, places)
    asked = await client.chat.completions.create(
        model=system.agent, messages=[user("Where am I?")], tools=TOOLS
    )
    rejoin: Any = asked.model_extra
    await system.apps[0][SERVICE].backend.log.purge(RunId(rejoin["rejoin"]["run_id"]))
    messages: list[Any] = [user("Where am I?"), *outputs(asked, "Oslo")]
    answer = await client.chat.completions.create(model=system.agent, messages=messages)
    assert said(answer).content == "You are in Oslo."
    assert {one.name for one in model.requests[1].tools} == {"weather", "book", "Locate"}


async def test_a_conversation_goes_on_after_its_calls(system: LocalSystem, client: AsyncOpenAI) -> None:
    """A client that repeats everything begins a conversation of texts; one that names it has the calls."""
    model = await served(system, LOCATE, places, "Once more.", "Again.")
    messages: list[Any] = [user("Where am I?")]
    asked = await client.chat.completions.create(model=system.agent, messages=messages, tools=TOOLS)
    messages += outputs(asked, "Oslo")
    answer = await client.chat.completions.create(model=system.agent, messages=messages, tools=TOOLS)
    messages += [said(answer), user("Again")]
    await client.chat.completions.create(model=system.agent, messages=messages, tools=TOOLS)
    [_, imported, _] = model.requests[2].history
    assert [part["type"] for part in imported["parts"]] == ["text"]
    rejoin: Any = answer.model_extra
    named = {"conversation_id": rejoin["rejoin"]["conversation_id"]}
    await client.chat.completions.create(model=system.agent, messages=messages, metadata=named)
    assert "tool-Locate" in [part["type"] for part in model.requests[3].history[1]["parts"]]


async def test_outputs_and_a_new_message_are_both_taken(system: LocalSystem, client: AsyncOpenAI) -> None:
    """Of a named conversation: the outputs first."""
    model = await served(system, LOCATE, "First.", "Second.")
    messages: list[Any] = [user("Where am I?")]
    asked = await client.chat.completions.create(model=system.agent, messages=messages, tools=TOOLS)
    rejoin: Any = asked.model_extra
    named = {"conversation_id": rejoin["rejoin"]["conversation_id"]}
    messages += [*outputs(asked, "Oslo"), user("And now?")]
    answer = await client.chat.completions.create(model=system.agent, messages=messages, metadata=named)
    assert said(answer).content in ("First.", "Second.")
    given = [one for one in model.requests if one.answer["parts"]]
    assert [output_of(one) for one in given if one.step] == ["Oslo"]


async def test_a_run_that_waits_for_people_too_takes_the_outputs_afterwards(
    system: LocalSystem, client: AsyncOpenAI
) -> None:
    await served(system, [LOCATE, call("book", city="Rome")], places)
    asked = await client.chat.completions.create(model=system.agent, messages=[user("go")], tools=TOOLS)
    rejoin: Any = asked.model_extra
    [pending] = rejoin["rejoin"]["pending_approvals"]
    messages: list[Any] = [user("go"), *outputs(asked, "Oslo")]
    with pytest.raises(openai.ConflictError, match=pending["approval_id"]):
        await client.chat.completions.create(model=system.agent, messages=messages)
    url = f"executions/{rejoin['rejoin']['run_id']}/approvals/{pending['tool_call_id']}"
    api = str(client.base_url).replace("/run/v1", "/run/api")
    headers = {"Authorization": f"Bearer {client.api_key}"}
    async with system.http.post(api + url, json={"approved": True}, headers=headers) as response:
        assert response.status == 200
    answer = await client.chat.completions.create(model=system.agent, messages=messages)
    assert said(answer).content == "You are in Oslo."


async def test_what_cannot_be_taken_is_refused_by_name(system: LocalSystem, client: AsyncOpenAI) -> None:
    await served(system, [LOCATE, LOCATE], "Never.")
    create, agent = client.chat.completions.create, system.agent
    asked = await create(model=agent, messages=[user("go")], tools=TOOLS)
    given = outputs(asked, "Oslo")
    own: Any = {"type": "function", "function": {"name": "weather"}}
    foreign = {"role": "tool", "tool_call_id": "call_abc", "content": "x"}
    nobody = {"role": "tool", "tool_call_id": f"call_{'0' * 26}_c", "content": "x"}
    for fields, status, place in (
        ({"messages": [user("go")], "tools": [own]}, 400, "tools"),
        ({"messages": given[:2]}, 400, "messages"),
        ({"messages": [*given, foreign]}, 400, "messages.3.tool_call_id"),
        ({"messages": [*given, nobody]}, 400, None),
        ({"messages": [nobody]}, 404, None),
        ({"messages": given, "metadata": {"conversation_id": "other"}}, 400, "metadata.conversation_id"),
    ):
        with pytest.raises(openai.APIStatusError) as fault:
            await create(model=agent, **fields)
        assert (fault.value.status_code, fields) == (status, fields)
        if place is not None:
            assert fault.value.body["param"] == place  # type: ignore[index]
    async with client_of(str(client.base_url).removesuffix("/run/v1/"), "bob") as bob:
        with pytest.raises(openai.NotFoundError):
            await bob.chat.completions.create(model=agent, messages=given)


async def test_a_request_may_choose_no_tools(system: LocalSystem, client: AsyncOpenAI) -> None:
    model = await served(system, "Hello.")
    create: Any = client.chat.completions.create
    await create(model=system.agent, messages=[user("hi")], tools=TOOLS, tool_choice="none")
    assert {one.name for one in model.requests[0].tools} == {"weather", "book"}


async def test_a_declared_client_tool_gets_the_json_in_the_text(
    system: LocalSystem, client: AsyncOpenAI
) -> None:
    declared = client_tool("Locate", "Where?", input={"type": "object"}, output={"type": "object"})
    model = await served(system, LOCATE, "Done.", tools=[declared], client_tools="declared")
    asked = await client.chat.completions.create(model=system.agent, messages=[user("go")])
    for text in ("Oslo", '"Oslo"'):
        with pytest.raises(openai.BadRequestError, match="output of Locate"):
            await client.chat.completions.create(model=system.agent, messages=outputs(asked, text))
    await client.chat.completions.create(model=system.agent, messages=outputs(asked, '{"city": "Oslo"}'))
    assert output_of(model.requests[1]) == {"city": "Oslo"}


# ------------------------------------------------------------------------------------------- responses


def function_outputs(response: Any, text: str) -> list[Any]:
    return [
        {"type": "function_call_output", "call_id": item.call_id, "output": text}
        for item in response.output
        if item.type == "function_call"
    ]


async def test_a_response_is_continued_by_its_id(system: LocalSystem, client: AsyncOpenAI) -> None:
    """The calls end the first response for good; what follows is another one."""
    await served(system, ["I ask.", call("weather", city="Rome"), LOCATE], places)
    create = client.responses.create
    asked = await create(model=system.agent, input="Where am I?", tools=FLAT)
    assert (asked.status, [item.type for item in asked.output]) == (
        "completed",
        ["message", "mcp_call", "function_call"],
    )
    given = function_outputs(asked, "Oslo")
    answer = await create(model=system.agent, input=given, previous_response_id=asked.id, tools=FLAT)
    assert (answer.status, answer.output_text) == ("completed", "You are in Oslo.")
    assert [item.type for item in answer.output] == ["message"]
    assert answer.id != asked.id
    assert asked.usage is not None
    assert answer.usage is not None
    assert (asked.usage.output_tokens, answer.usage.output_tokens) == (4, 4)
    for known in (asked, answer):
        kept = await client.responses.retrieve(known.id)
        assert (kept.status, kept.output) == (known.status, known.output)
    again = await create(model=system.agent, input=given, previous_response_id=asked.id)
    assert (again.id, again.output_text) == (answer.id, answer.output_text)


async def test_a_response_is_continued_by_its_calls_alone(system: LocalSystem, client: AsyncOpenAI) -> None:
    """The loop of the documentation: the input grows, nothing names the response."""
    model = await served(system, LOCATE, places, "Fine.")
    items: list[Any] = [user("Where am I?")]
    asked = await client.responses.create(model=system.agent, input=items, tools=FLAT)
    items += [*asked.output, *function_outputs(asked, "Oslo")]
    answer = await client.responses.create(model=system.agent, input=items, tools=FLAT)
    assert answer.output_text == "You are in Oslo."
    items += [*answer.output, user("Fine")]
    last = await client.responses.create(model=system.agent, input=items, tools=FLAT)
    assert last.output_text == "Fine."
    assert len({item.id for item in (*asked.output, *answer.output)}) == 2
    assert len(model.requests) == 3


async def test_a_stream_of_calls_and_of_what_follows(system: LocalSystem, client: AsyncOpenAI) -> None:
    """The SDK's own accumulation; any number is a place to go on, in both responses."""
    await served(system, LOCATE, places)
    async with client.responses.stream(model=system.agent, input="Where am I?", tools=FLAT) as stream:
        events = [event async for event in stream]
        asked = await stream.get_final_response()
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [one.arguments for one in done] == ['{"accuracy":{"metres":5}}']
    assert events[-1].type == "response.completed"
    given = function_outputs(asked, "Oslo")
    async with client.responses.stream(
        model=system.agent, input=given, previous_response_id=asked.id
    ) as more:
        following = [event async for event in more]
    assert [event.sequence_number for event in following] == list(range(len(following)))
    for id, seen in ((asked.id, events), (following[-1].response.id, following)):  # type: ignore[union-attr]
        for number in (0, len(seen) // 2):
            rest = [
                event
                async for event in await client.responses.retrieve(id, stream=True, starting_after=number)
            ]
            assert [event.sequence_number for event in rest] == [
                event.sequence_number for event in seen if event.sequence_number > number
            ]


async def test_calls_and_approvals_of_one_response_are_answered_together(
    system: LocalSystem, client: AsyncOpenAI
) -> None:
    await served(system, [LOCATE, call("book", city="Rome")], places)
    create, agent = client.responses.create, system.agent
    asked = await create(model=agent, input="go", tools=FLAT)
    [approval] = [item for item in asked.output if item.type == "mcp_approval_request"]
    decision: Any = {"type": "mcp_approval_response", "approval_request_id": approval.id, "approve": True}
    given = function_outputs(asked, "Oslo")
    for alone, why in ((given, "decide all open approvals"), ([decision], "answer the function calls")):
        with pytest.raises(openai.BadRequestError, match=why):
            await create(model=agent, input=alone, previous_response_id=asked.id)
    answer = await create(model=agent, input=[*given, decision], previous_response_id=asked.id)
    assert answer.output_text == "You are in Oslo."


async def test_outputs_of_a_response_that_waits_for_none_are_refused(
    system: LocalSystem, client: AsyncOpenAI
) -> None:
    await served(system, LOCATE, LOCATE)
    create, agent = client.responses.create, system.agent
    one = await create(model=agent, input="go", tools=FLAT)
    other = await create(model=agent, input="go", tools=FLAT)
    for fields, kind in (
        ({"input": function_outputs(one, "a"), "previous_response_id": other.id}, openai.BadRequestError),
        ({"input": [*function_outputs(one, "a"), *function_outputs(other, "b")]}, openai.BadRequestError),
        ({"input": "hi", "previous_response_id": f"{one.id}_7"}, openai.NotFoundError),
    ):
        with pytest.raises(kind):
            await create(model=agent, **fields)
