"""Arguments and results of a tool may be of the types that applications have, pydantic's models too."""

from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import msgspec
import pydantic
import pytest

from rejoin import Agent, SyncToolContext, ToolContext, ToolError, tool
from rejoin.testing import RecordingToolContext, ScriptedModel
from rejoin_protocol.errors import Invalid


class Item(pydantic.BaseModel):
    """A pydantic model inside of another one."""

    name: str


class Order(pydantic.BaseModel):
    """A pydantic model."""

    number: int = pydantic.Field(ge=1, description="As printed on the invoice.")
    items: list[Item] = []


@dataclass
class Parcel:
    """A dataclass with a pydantic model."""

    order: Order
    weight: float


class Address(TypedDict):
    """A typed dictionary."""

    city: str


class Shop(msgspec.Struct):
    """A context."""

    currency: str


class Bank(msgspec.Struct):
    """Another context."""

    iban: str


@tool
async def ship(parcel: Parcel, to: Address, more: list[Order]) -> Order:
    """Ship a parcel."""
    assert isinstance(parcel.order.items[0], Item)
    assert all(isinstance(one, Order) for one in more)
    return Order(number=parcel.order.number + len(more), items=[Item(name=to["city"])])


@tool
async def price(ctx: ToolContext[Shop], number: int) -> str:
    """Say a price."""
    return f"{number} {ctx.context.currency}"


@tool(timeout_s=5)
def charge(ctx: SyncToolContext[Bank]) -> str:
    """Charge somebody."""
    return ctx.context.iban


@tool
async def greet(ctx: ToolContext[None]) -> str:
    """Greet."""
    return f"Hello {ctx.session}"


CALL: dict[str, Any] = {
    "parcel": {"order": {"number": 3, "items": [{"name": "bell"}]}, "weight": 1.5},
    "to": {"city": "Oslo"},
    "more": [{"number": 4}],
}


async def test_models_dataclasses_and_typed_dictionaries_are_arguments_and_results() -> None:
    result = await ship.call(CALL, RecordingToolContext(context=None))
    assert result == {"number": 4, "items": [{"name": "Oslo"}]}


def test_the_schema_has_every_definition_at_its_root() -> None:
    schema = ship.spec.input_schema
    text = msgspec.json.encode(schema).decode()
    assert text.count('"$defs"') == 1
    references = {part.split('"')[0] for part in text.split('"$ref":"#/$defs/')[1:]}
    assert references == {"Parcel", "Address", "Order_Item"}
    assert references <= set(schema["$defs"])
    assert "As printed on the invoice." in text


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"more": [{"number": 0}]}, r"number: .* greater than or equal to 1 .*more"),
        ({"more": [{"number": 1, "items": [{}]}]}, r"items.0.name: Field required"),
        ({"to": {}}, "missing required field `city`"),
    ],
)
async def test_an_error_names_the_place(change: dict[str, Any], place: str) -> None:
    with pytest.raises(ToolError, match=place):
        await ship.call(CALL | change, RecordingToolContext(context=None))


def test_a_type_without_a_json_form_is_named() -> None:
    async def odd(thing: object) -> str:
        """Take a thing."""
        return str(thing)

    with pytest.raises(Invalid, match=r"tool odd: a parameter's type cannot be .* JSON: object has no"):
        tool(odd)


def test_a_tool_that_reads_another_context_is_refused_by_type_checkers_and_at_the_declaration() -> None:
    model = ScriptedModel()
    Agent(name="shop", model=model, context=Shop, tools=[price, greet, ship])
    with pytest.raises(Invalid, match="has the context Bank, and its tool price reads the context Shop"):
        Agent(name="bank", model=model, context=Bank, tools=[price])  # type: ignore[misc]
    with pytest.raises(Invalid, match="has the context Shop, and its tool charge reads the context Bank"):
        Agent(name="shop", model=model, context=Shop, tools=[charge])  # type: ignore[misc]


def test_a_tool_that_reads_a_context_is_refused_where_runs_have_none() -> None:
    from rejoin_runner.agent.team import collect_agents

    agent = Agent(name="shop", model=ScriptedModel(), tools=[price])
    with pytest.raises(Invalid, match="runs without a context, and its tool price reads the context Shop"):
        collect_agents(agent)
    head = Agent(name="head", model=ScriptedModel(), context=Shop, delegates=[agent])
    assert set(collect_agents(head)) == {"head", "shop"}


def test_the_docstring_describes_an_argument_before_its_class_does() -> None:
    @tool
    async def cancel(
        order: Order, parcel: Parcel, to: Annotated[str, msgspec.Meta(description="A city.")]
    ) -> str:
        """Cancel an order.

        Args:
            order: The order that is meant.
            parcel: Its parcel.
            to: Where it goes.
        """
        return f"{order} {parcel} {to}"

    described = {name: one["description"] for name, one in cancel.spec.input_schema["properties"].items()}
    assert described == {
        "order": "The order that is meant. A pydantic model.",
        "parcel": "Its parcel.",
        "to": "A city.",
    }
