"""Names and ids of calls are made fit for each provider, whatever a model invented."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoin_protocol.errors import Invalid
from rejoin_runner.models.model import ToolSpec
from rejoin_runner.models.providers.provider import KNOWN_PROVIDERS
from rejoin_runner.models.providers.request_rules import (
    check_tools,
    declare_tools,
    find_rules,
    fit_call_id,
    fit_tool_name,
)

providers = st.sampled_from(KNOWN_PROVIDERS)
INVENTED = [
    "functions.add",
    "add tool",
    "add<|channel|>json",
    "a" * 65,
    "",
    "погода",
    "-",
    "7",
    "\ud800",
    "a\0",
]


@pytest.mark.parametrize("provider", KNOWN_PROVIDERS)
def test_a_fitting_name_stays_and_every_other_name_is_made_fit(provider: str) -> None:
    rules = find_rules(provider, "m")
    assert fit_tool_name("get_weather", rules) == "get_weather"
    for name in INVENTED:
        assert re.fullmatch(rules.tool_name, fit_tool_name(name, rules)), name


@given(providers, st.lists(st.text(), unique=True, max_size=8))
def test_no_two_names_become_one(provider: str, names: list[str]) -> None:
    rules = find_rules(provider, "m")
    assert len({fit_tool_name(name, rules) for name in names}) == len(names)


def test_names_that_look_alike_stay_apart_and_keep_clear_of_a_declared_one() -> None:
    rules = find_rules("openai", "m")
    fitted = {fit_tool_name(name, rules) for name in ("functions.add", "functions add", "functions_add")}
    assert len(fitted) == 3
    assert "functions_add" in fitted


@given(providers, st.lists(st.text(max_size=70) | st.sampled_from(["", "call_1", "c" * 65]), max_size=8))
def test_every_id_of_a_request_fits_and_is_used_once(provider: str, ids: list[str]) -> None:
    rules = find_rules(provider, "m")
    taken: set[str] = set()
    fitted = [fit_call_id(id, rules, taken) for id in ids]
    assert len(set(fitted)) == len(ids)
    assert all(re.fullmatch(rules.call_id, id) for id in fitted)


@pytest.mark.parametrize(
    ("provider", "model"),
    [("mistral", "x"), ("openrouter", "mistralai/devstral-2"), ("vllm", "Mixtral-8x7B")],
)
def test_mistral_s_models_are_known_by_name_wherever_they_are_served(provider: str, model: str) -> None:
    assert fit_call_id("call_1", find_rules(provider, model), set()).isalnum()


def test_a_tool_that_a_provider_cannot_take_is_refused_by_name() -> None:
    check_tools("openai:gpt-5,anthropic:claude", ["2fa", "weather"])
    with pytest.raises(Invalid, match="google takes no tool of the name '2fa'"):
        check_tools("openai:gpt-5, google:gemini", ["weather", "2fa"])
    check_tools("anthropic:claude", [f"tool_{number}" for number in range(129)])
    with pytest.raises(Invalid, match="openai takes at most 128 tools, not 129"):
        check_tools("openai:gpt-5", [f"tool_{number}" for number in range(129)])


def test_tools_are_declared_as_the_provider_takes_them() -> None:
    tools = [ToolSpec(f"tool_{number}", "x" * 5_000, {"type": "object"}) for number in range(200)]
    openai, anthropic = (declare_tools(tools, [], find_rules(one, "m")) for one in ("openai", "anthropic"))
    assert (len(openai), len(openai[0].description)) == (128, 1_024)
    assert anthropic == tools


def test_an_agent_without_tools_declares_those_of_the_conversation_where_that_is_a_must() -> None:
    declared = declare_tools([], ["weather"], find_rules("anthropic", "m"))
    assert [(tool.name, tool.input_schema["type"]) for tool in declared] == [("weather", "object")]
    assert declare_tools([], ["weather"], find_rules("openai", "m")) == []
