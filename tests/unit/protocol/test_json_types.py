"""Types whose values are JSON: their schemas, and the way in and out."""

from dataclasses import dataclass
from typing import Any

import msgspec
import pydantic
import pytest

from rejoin_protocol.json_types import from_json, json_schema, to_json


class Model(pydantic.BaseModel):
    """A pydantic model."""

    count: int


@dataclass
class Holder:
    """A dataclass that holds one."""

    model: Model


@pytest.mark.parametrize("value", [Model(count=1), Holder(Model(count=1))])
def test_a_value_is_read_as_it_was_written(value: Any) -> None:
    assert from_json(msgspec.json.decode(to_json(value)), type(value)) == value


def test_all_definitions_stand_at_the_root() -> None:
    schema = json_schema(Holder)
    assert set(schema["$defs"]) == {"Holder", "Model"} or schema["$defs"]["Holder"]["properties"]["model"]


@pytest.mark.parametrize("type", [Model, Holder])
def test_what_does_not_fit_is_a_validation_error(type: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        from_json({"count": "many"}, type)


def test_a_type_without_a_json_form_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        json_schema(object)
