"""What a request of OpenAI's clients sets, compared with what the agent takes; the rest is named."""

from typing import Any

import pytest

from rejoin_gateway.api.openai.caller_options import (
    IGNORED_MAX,
    CallerRequest,
    read_options,
    read_tools,
)
from rejoin_gateway.api.openai.request_input import (
    ChatMessage,
    from_chat_messages,
    from_response_input,
    split_instructions,
)
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import AgentName
from rejoin_protocol.request_options import AskedOutput, RequestOptions
from rejoin_protocol.run_request import AgentEntry

ALL = AgentEntry(AgentName("a"), callers=("instructions", "sampling", "output", "tools"))
NONE = AgentEntry(AgentName("a"))
SCHEMA = {"type": "object", "properties": {}}
NAMED = {"name": "place", "schema": SCHEMA, "strict": True}
TOOL = {"type": "function", "function": {"name": "locate", "parameters": SCHEMA}}


def read(entry: AgentEntry, **fields: Any) -> CallerRequest:
    return read_options({"model": "a", "messages": [], "stream": True, **fields}, [], entry)


def ignored(entry: AgentEntry, **fields: Any) -> list[str]:
    return list(read(entry, **fields).ignored)


def refused(**fields: Any) -> str:
    with pytest.raises(Invalid) as fault:
        read(ALL, **fields)
    return fault.value.pointer


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"temperature": 0.2, "top_p": 0.5}, RequestOptions(temperature=0.2, top_p=0.5)),
        ({"max_tokens": 9, "max_completion_tokens": 5}, RequestOptions(max_tokens=5)),
        ({"max_output_tokens": 5}, RequestOptions(max_tokens=5)),
        ({"stop": "END"}, RequestOptions(stop=("END",))),
        ({"stop": ["a", "b"]}, RequestOptions(stop=("a", "b"))),
        ({"instructions": "Be kind."}, RequestOptions(instructions="Be kind.")),
        ({"response_format": {"type": "text"}}, RequestOptions()),
        (
            {"response_format": {"type": "json_schema", "json_schema": NAMED}},
            RequestOptions(output=AskedOutput("place", "", SCHEMA)),
        ),
        (
            {"text": {"format": {"type": "json_schema", **NAMED}}},
            RequestOptions(output=AskedOutput("place", "", SCHEMA)),
        ),
        (
            {"response_format": {"type": "json_object"}},
            RequestOptions(output=AskedOutput("output", "", {"type": "object"})),
        ),
        ({"parallel_tool_calls": False}, RequestOptions(parallel_tool_calls=False)),
    ],
)
def test_what_an_agent_takes_is_an_option(fields: dict[str, Any], options: RequestOptions) -> None:
    assert read(ALL, **fields) == CallerRequest(options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 1),
        ("max_tokens", 5),
        ("stop", ["END"]),
        ("instructions", "Be kind."),
        ("response_format", {"type": "json_object"}),
        ("text", {"format": {"type": "json_object"}}),
        ("tools", [TOOL]),
        ("parallel_tool_calls", False),
    ],
)
def test_what_an_agent_does_not_take_is_named(name: str, value: Any) -> None:
    assert read(NONE, **{name: value}) == CallerRequest(ignored=(name,))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user", "ann"),
        ("store", False),
        ("seed", 1),
        ("logprobs", True),
        ("metadata", {"conversation_id": "a", "team": "b"}),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ("reasoning_effort", "high"),
        ("service_tier", "flex"),
        ("something_new", {"a": 1}),
    ],
)
def test_what_no_agent_takes_is_named(name: str, value: Any) -> None:
    assert ignored(ALL, **{name: value}) == [name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 1),
        ("store", True),
        ("logprobs", False),
        ("user", None),
        ("metadata", {"conversation_id": "a"}),
        ("metadata", {}),
        ("tool_choice", "auto"),
        ("parallel_tool_calls", True),
        ("truncation", "disabled"),
        ("tools", []),
        ("text", {}),
        ("text", {"format": {"type": "text"}, "verbosity": "medium"}),
        ("stream_options", {"include_usage": True}),
    ],
)
def test_what_happens_anyway_is_not_named(name: str, value: Any) -> None:
    assert read(ALL, **{name: value}) == CallerRequest()


def test_members_without_effect_are_named_by_their_place() -> None:
    asked = read(ALL, tools=[{"type": "web_search"}, TOOL], text={"verbosity": "low"})
    assert [tool.name for tool in asked.tools or ()] == ["locate"]
    assert list(asked.ignored) == ["tools.0", "text.verbosity"]
    assert read(ALL, tools=[TOOL], tool_choice="none").tools == ()


def test_system_and_developer_messages_are_instructions_in_their_order() -> None:
    said = [
        ChatMessage("developer", "One."),
        ChatMessage("user", "hi"),
        ChatMessage("system", [{"type": "text", "text": "Two."}, {"type": "text", "text": "Three."}]),
    ]
    instructions, messages = split_instructions(from_chat_messages(said, strict=False))
    assert [message.role for message in messages] == ["user"]
    asked = read_options({}, instructions, ALL)
    assert asked.options.instructions == "One.\n\nTwo.\n\nThree."
    assert read_options({}, instructions, NONE).ignored == ("messages.0", "messages.2")
    items = from_response_input([{"role": "system", "content": "Two."}], strict=False)
    asked = read_options({"instructions": "One."}, split_instructions(items)[0], ALL)
    assert asked.options.instructions == "One.\n\nTwo."


def test_what_is_not_valid_is_refused_by_its_place() -> None:
    assert refused(stop=["a"] * 5) == "/stop"
    assert refused(response_format={"type": "xml"}) == "/response_format/type"
    assert refused(response_format={"type": "json_schema"}) == "/response_format/name"
    wrong = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "array"}}}
    assert refused(response_format=wrong) == "/response_format/json_schema/schema"
    assert refused(tools=[{"type": "web_search"}, {"type": "function"}]) == "/tools/1"
    picture = {"type": "image_url", "image_url": {"url": "data:,"}}
    [shown] = from_chat_messages([ChatMessage("system", [picture])], strict=False)
    with pytest.raises(Invalid) as fault:
        read_options({}, [shown], ALL)
    assert fault.value.pointer == "/messages/0/content/0"


def test_calls_that_were_not_made_here_are_left_out() -> None:
    call = {"id": "call_abc", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = [
        ChatMessage("user", "hi"),
        ChatMessage("assistant", None, tool_calls=[call]),
        ChatMessage("tool", "1", tool_call_id="call_abc"),
        ChatMessage("function", "1"),
        ChatMessage("user", "and?"),
    ]
    assert [one.role for one in from_chat_messages(said, strict=False)] == ["user", "assistant", "user"]
    items = [{"type": "function_call", "call_id": "call_abc"}, {"type": "web_search_call"}]
    assert from_response_input(items, strict=False) == []


def test_the_header_has_few_plain_names() -> None:
    assert CallerRequest().headers == {}
    names = ["user", "user", "a\nb", *(f"f{number}" for number in range(100))]
    value = CallerRequest(ignored=names).headers["Rejoin-Ignored"]
    assert value.startswith("user, f0, f1")
    assert len(value.split(", ")) == IGNORED_MAX


def test_a_strict_gateway_takes_tools_for_agents_that_say_so() -> None:
    asked = read_tools({"tools": [TOOL]}, AgentEntry(AgentName("a"), takes_tools=True))
    assert [tool.name for tool in asked.tools or ()] == ["locate"]
    assert asked.options == RequestOptions()
    assert read_tools({"tools": []}, NONE) == CallerRequest()
    with pytest.raises(Invalid):
        read_tools({"tools": [TOOL]}, ALL)
