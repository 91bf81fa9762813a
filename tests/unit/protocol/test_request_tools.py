"""Client tools of a request: names, sizes, and what their schemas may be."""

from typing import Any

import pytest

from rejoin_protocol.errors import Invalid
from rejoin_protocol.limits import REQUEST_TOOLS_MAX, SCHEMA_DEPTH_MAX
from rejoin_protocol.request_tools import RequestTool, check_tools, find_reserved, parse_tool

pytestmark = pytest.mark.feature("F104")
OBJECT: dict[str, Any] = {"type": "object", "properties": {"x": {"type": "string"}}}


def refused(name: Any, **fields: Any) -> str:
    with pytest.raises(Invalid) as fault:
        parse_tool(name, fields, "/tools/0")
    assert fault.value.pointer.startswith("/tools/0")
    return fault.value.detail


def test_a_tool_may_have_neither_description_nor_arguments() -> None:
    bare = parse_tool("locate", {}, "")
    assert (bare.description, bare.parameters) == ("", {"type": "object", "properties": {}})
    full = parse_tool("f", {"description": "Does f.", "parameters": OBJECT, "strict": True}, "")
    assert full == RequestTool("f", "Does f.", OBJECT)


@pytest.mark.parametrize("name", ["", "a b", "é", "x" * 65, "a.b", None, 1])
def test_a_name_that_providers_refuse_is_refused(name: Any) -> None:
    assert "1 to 64 letters" in refused(name)


@pytest.mark.parametrize("schema", [[], {}, {"type": "string"}, {"type": ["object"]}, "object"])
def test_arguments_are_an_object(schema: Any) -> None:
    assert "a JSON schema of type object" in refused("f", parameters=schema)


def test_a_description_is_a_text() -> None:
    assert "is a text" in refused("f", description=["f"])


def test_references_lead_into_the_schema() -> None:
    """What `openai.pydantic_function_tool` makes of a nested model, also of one that holds itself."""
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
    nested = {**OBJECT, "properties": {"n": {"$ref": "#/$defs/Node"}}, "$defs": {"Node": node}}
    assert parse_tool("f", {"parameters": nested}, "").parameters == nested
    itself = {"type": "object", "properties": {"next": {"$ref": "#"}}}
    assert parse_tool("f", {"parameters": itself}, "").parameters == itself
    for reference, why in (
        ("http://169.254.169.254/", "leads out of the schema"),
        ("other.json#/a", "leads out of the schema"),
        ("#/$defs/Nobody", "leads nowhere"),
    ):
        assert why in refused("f", parameters={**OBJECT, "properties": {"n": {"$ref": reference}}})


def test_a_few_lines_that_mean_billions_are_refused() -> None:
    """Each definition holds the next one twice: without references that are 2 to the power of 20 values."""
    laughs = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(20)}
    bomb = {**OBJECT, "$defs": {**laughs, "d20": {}}}
    assert "at most 10000 values" in refused("f", parameters=bomb)


def test_a_deep_schema_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(SCHEMA_DEPTH_MAX):
        deep = {"not": deep}
    assert f"at most {SCHEMA_DEPTH_MAX} deep" in refused("f", parameters={**OBJECT, "properties": deep})
    chain = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(SCHEMA_DEPTH_MAX)}
    linked = {**OBJECT, "$defs": {**chain, f"d{SCHEMA_DEPTH_MAX}": {}}}
    assert f"at most {SCHEMA_DEPTH_MAX} deep" in refused("f", parameters=linked)


def test_tools_are_bounded_and_have_different_names() -> None:
    tools = [RequestTool(f"f{n}", "", OBJECT) for n in range(REQUEST_TOOLS_MAX)]
    check_tools(tools, "/tools")
    for wrong, why in (
        ([*tools, RequestTool("one_more", "", OBJECT)], "at most 128 tools, not 129"),
        ([tools[0], tools[0]], "two tools have the name f0"),
        ([RequestTool("f", "x" * 200_000, OBJECT)], "at most 131072 bytes"),
    ):
        with pytest.raises(Invalid, match=why) as fault:
            check_tools(wrong, "/tools")
        assert fault.value.pointer == "/tools"


def test_an_agent_reserves_names_and_beginnings_of_names() -> None:
    tools = [RequestTool("locate", "", OBJECT), RequestTool("delegate_to_me", "", OBJECT)]
    assert find_reserved(tools, ["refund"]) is None
    assert find_reserved(tools, []) is None
    assert find_reserved(tools, ["refund", "locate"]) == "locate"
    assert find_reserved(tools, ["delegate_to_*"]) == "delegate_to_me"
