"""Agents with an output type: growth, retries, failures, the next turn, delegation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import msgspec
import pydantic
import pytest

from rejoin import Agent, Invalid, ModelRequest, NoOutput, testing, tool
from rejoin.chunks import Data
from rejoin.testing import Answer, ScriptedModel, call, fail, output, reasoning
from rejoin_protocol.events.typed_output import OUTPUT, OUTPUT_ERROR


class Line(msgspec.Struct):
    """One line of an invoice."""

    item: str
    cents: Annotated[int, msgspec.Meta(ge=0)]


class Invoice(msgspec.Struct):
    """An invoice."""

    number: str
    lines: list[Line]
    note: str = ""


@dataclass
class AsDataclass:
    number: str
    lines: list[Line]


class AsDict(TypedDict):
    number: str
    lines: list[Line]


class PydanticLine(pydantic.BaseModel):
    item: str
    cents: int


class AsModel(pydantic.BaseModel):
    number: str
    lines: list[PydanticLine]


SCHEMA = {
    "title": "invoice",
    "type": "object",
    "properties": {"number": {"type": "string"}, "lines": {"type": "array"}},
    "required": ["number", "lines"],
}
VALUE = {"number": "A-17", "lines": [{"item": "a bell", "cents": 900}]}
INVOICE = Invoice("A-17", [Line("a bell", 900)])
WRONG = {"number": "A-17", "lines": [{"item": "a bell", "cents": -1}]}


@tool
async def look_up(number: str) -> str:
    """Look an order up."""
    return f"{number}: a bell, 9.00"


def clerk(type: Any = Invoice, **options: Any) -> Agent:
    return Agent(name="clerk", model="openai:gpt-5-mini", output=type, text_interval_s=0, **options)


def growth(answer: Answer) -> list[Any]:
    return [event.data for event in answer.events if isinstance(event, Data) and event.type == OUTPUT]


@pytest.mark.parametrize(
    ("type", "expected"),
    [
        (Invoice, INVOICE),
        (AsDataclass, AsDataclass("A-17", [Line("a bell", 900)])),
        (AsDict, {"number": "A-17", "lines": [Line("a bell", 900)]}),
        (AsModel, AsModel(number="A-17", lines=[PydanticLine(item="a bell", cents=900)])),
        (SCHEMA, VALUE),
    ],
    ids=["struct", "dataclass", "typed dict", "pydantic", "schema"],
)
async def test_the_answer_is_an_instance_of_the_type(type: Any, expected: Any) -> None:
    async with testing.chat(clerk(type), model=ScriptedModel(output(VALUE))) as chat:
        answer = await chat.send("My invoice?")
        assert answer.output == expected
        assert (answer.text, answer.finish_reason, answer.error) == ("", "stop", None)
        [part] = [part for part in (await chat.history())[1]["parts"] if part["type"] == OUTPUT]
        assert part == {"type": OUTPUT, "id": "output", "data": VALUE}


async def test_it_grows_and_the_whole_one_comes_last() -> None:
    async with testing.chat(clerk(), model=ScriptedModel(output(VALUE))) as chat:
        values = growth(await chat.send("My invoice?"))
    assert values[0] == {"number": "A-17", "lines": [{"item": "a"}]}
    assert values[-1] == VALUE


async def test_an_answer_that_does_not_fit_goes_back_to_the_model() -> None:
    def again(request: ModelRequest) -> Any:
        parts = request.answer["parts"]
        [asked] = [part["parts"][0]["text"] for part in parts if part["type"] == "steering-message"]
        [wrong] = [part["text"] for part in parts if part["type"] == "text"]
        assert msgspec.json.decode(wrong) == WRONG
        assert "Expected `int` >= 0 - at `$.lines[0].cents`" in asked
        return output(VALUE)

    async with testing.chat(clerk(), model=ScriptedModel(output(WRONG), again)) as chat:
        answer = await chat.send("My invoice?")
        assert answer.output == INVOICE
        assert len(answer.output_errors) == 1
        assert [part["data"] for part in answer.message["parts"] if part["type"] == OUTPUT] == [VALUE]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (output(WRONG), "cents"),
        ("I cannot.", "it is no JSON object"),
        ('{"number": "A-17", ', "the contents are not complete JSON: they end after 18 characters"),
    ],
)
async def test_after_the_last_retry_the_run_fails_in_words(said: Any, why: str) -> None:
    model = ScriptedModel(said, said, said)
    async with testing.chat(clerk(), model=model) as chat:
        answer = await chat.send("My invoice?")
        assert answer.output is None
        assert answer.error is not None
        assert answer.error.startswith("3 answers of the model did not fit what the agent must return.")
        assert why in answer.error
        assert model.responses_left == 0


async def test_without_retries_the_first_answer_counts() -> None:
    async with testing.chat(clerk(output_retries=0), model=ScriptedModel(output(WRONG))) as chat:
        answer = await chat.send("My invoice?")
    assert answer.error is not None
    assert answer.error.startswith("The answer of the model did not fit")


async def test_tools_and_their_words_come_before_the_output() -> None:
    model = ScriptedModel(["I look it up.", call("look_up", number="A-17")], output(VALUE))
    async with testing.chat(clerk(tools=[look_up]), model=model) as chat:
        answer = await chat.send("My invoice?")
    assert (answer.text, answer.output) == ("I look it up.", INVOICE)
    assert answer.tool("look_up").state == "output-available"


async def test_used_up_steps_fail_the_run() -> None:
    model = ScriptedModel(call("look_up", number="A-17"))
    async with testing.chat(clerk(tools=[look_up], max_steps=1), model=model) as chat:
        answer = await chat.send("My invoice?")
    assert answer.error == "The agent used up its 1 steps and has not finished."


@pytest.mark.parametrize("text", ["```json\n{}\n```", "``` \n{}```\n", "  {}", "\n{}\n"])
async def test_fences_and_space_around_the_object_do_not_matter(text: str) -> None:
    said = text.format(msgspec.json.encode(VALUE).decode()) if "{}" in text else text
    said = text.replace("{}", msgspec.json.encode(VALUE).decode())
    async with testing.chat(clerk(), model=ScriptedModel(said)) as chat:
        answer = await chat.send("My invoice?")
    assert (answer.output, answer.text) == (INVOICE, "")


async def test_the_next_turn_reads_the_output_once_and_no_mistakes() -> None:
    def next_turn(request: ModelRequest) -> Any:
        earlier = request.history[1]
        texts = [part["text"] for part in earlier["parts"] if part["type"] == "text"]
        assert [msgspec.json.decode(text) for text in texts] == [VALUE]
        assert {part["type"] for part in earlier["parts"]} == {"step-start", "text", "reasoning"}
        return output(number="B-1", lines=[])

    model = ScriptedModel(output(WRONG), [reasoning("Hm."), output(VALUE)], next_turn)
    async with testing.chat(clerk(), model=model) as chat:
        await chat.send("My invoice?")
        assert (await chat.send("And the other one?")).output == Invoice("B-1", [])


@pytest.mark.parametrize("event", ["data-output", "data-output-error", "message-metadata", "finish-step"])
@pytest.mark.parametrize("stored", [False, True])
async def test_a_crash_anywhere_ends_with_one_output(event: str, stored: bool) -> None:
    model = ScriptedModel(output(WRONG), output(VALUE))
    async with testing.chat(clerk(), model=model) as chat:
        chat.crash_at(event, stored=stored)
        await chat.send("My invoice?")
        message = (await chat.history())[1]
        assert [part["data"] for part in message["parts"] if part["type"] == OUTPUT] == [VALUE]
        assert len([part for part in message["parts"] if part["type"] == OUTPUT_ERROR]) == 1
        assert message["metadata"]["outputState"] == "done"


async def test_a_provider_s_failure_leaves_a_piece_that_is_no_output() -> None:
    model = ScriptedModel(['{"number": "A-17", "lines": [', fail("the provider is away")])
    async with testing.chat(clerk(), model=model) as chat:
        answer = await chat.send("My invoice?")
    assert (answer.output, answer.error) == (None, "the provider is away")


async def test_a_piece_of_the_next_answer_is_no_output_beside_one_that_was_taken_back() -> None:
    responses: Iterator[Any] = iter(
        [output(VALUE), ['{"number": "B-1", "lines": [', fail("the provider is away")]]
    )
    async with testing.chat(clerk(), model=ScriptedModel(lambda _: next(responses))) as chat:
        chat.crash_at("message-metadata", stored=True)
        answer = await chat.send("My invoice?")
        assert (answer.output, answer.error) == (None, "the provider is away")
        assert (await chat.history())[1]["metadata"]["outputState"] == "partial"


async def test_a_delegated_agent_returns_the_object_to_its_caller() -> None:
    boss = Agent(name="boss", model="openai:gpt-5", delegates=[clerk()])
    models = {
        "boss": ScriptedModel(
            call("delegate_to_clerk", task="A-17"), call("delegate_to_clerk", task="B"), "Done."
        ),
        "clerk": ScriptedModel(output(VALUE), output(WRONG)),
    }
    async with testing.chat(boss, model=models) as chat:
        answer = await chat.send("The invoices!")
    first, second = answer.tools
    assert first.output == VALUE
    assert second.error is not None
    assert second.error.startswith("Its answer does not fit: Expected `int` >= 0")
    assert answer.text == "Done."


async def test_the_library_reads_it_typed() -> None:
    async with testing.chat(clerk(), model=ScriptedModel(output(VALUE), output(VALUE), fail("no"))) as chat:
        stream = await chat.session.send("My invoice?")
        assert await stream.output(Invoice) == INVOICE
        stream = await chat.session.send("As JSON?")
        assert await stream.output() == VALUE
        stream = await chat.session.send("Once more?")
        with pytest.raises(NoOutput, match="no"):
            await stream.output(Invoice)


async def test_what_the_model_is_asked_for() -> None:
    model = ScriptedModel(output(VALUE))
    async with testing.chat(clerk(), model=model) as chat:
        await chat.send("My invoice?")
    spec = model.requests[0].output
    assert spec is not None
    assert (spec.name, spec.description, spec.schema["required"]) == (
        "Invoice",
        "An invoice.",
        ["number", "lines"],
    )


@pytest.mark.parametrize(
    ("type", "error"),
    [
        (list[Line], "its output is a type whose JSON is an object"),
        (int, "its output is a type whose JSON is an object"),
        (object, "its output cannot be written as JSON"),
        ({"type": "array"}, "its output is a type whose JSON is an object"),
        ({"type": "objekt"}, "its output is no JSON schema"),
    ],
)
def test_a_type_that_no_model_can_answer_with_is_refused(type: Any, error: str) -> None:
    with pytest.raises(Invalid, match=error):
        clerk(type)


def test_a_tool_of_the_output_s_name_is_refused() -> None:
    @tool(name="final_result")
    async def final_result() -> None:
        """Do something else."""

    with pytest.raises(Invalid, match="that is how a model gives its output"):
        clerk(tools=[final_result])
