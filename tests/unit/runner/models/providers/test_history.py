"""Stored conversations are converted to a provider's messages."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from pydantic_ai.messages import (
    BinaryContent,
    DocumentUrl,
    FilePart,
    ImageUrl,
    ModelRequest,
    ModelResponse,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)

from rejoin_protocol.events.edited_input import EditedInput, with_edit
from rejoin_runner.models.providers.conversation import (
    DENIED,
    EDITED,
    GO_ON,
    NOT_RETURNED,
    WAITING,
    AnswerTurn,
    MadeCall,
    build_conversation,
    system_texts,
)
from rejoin_runner.models.providers.history import to_messages
from rejoin_runner.models.providers.model_origin import ModelOrigin
from rejoin_runner.models.providers.request_rules import find_rules

ORIGIN = ModelOrigin("openai", "m1", "openai-compatible")
STEP = {"type": "step-start"}


def text(value: str, **more: object) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": "u", "role": "user", "parts": list(parts)}


def assistant(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": "a", "role": "assistant", "parts": list(parts)}


def tool(state: str, **more: object) -> dict[str, Any]:
    return {"type": "tool-weather", "toolCallId": "c1", "state": state, "input": {"city": "Rome"}, **more}


def messages_for(
    instructions: str, turns: Sequence[dict[str, Any]], origin: ModelOrigin
) -> list[ModelRequest | ModelResponse]:
    return to_messages(instructions, build_conversation(turns, origin), origin)


def shown(*turns: dict[str, Any], instructions: str = "") -> list[Any]:
    """The messages as nested tuples, without the library's timestamps, and without a last `GO_ON`."""
    messages = [
        (type(message).__name__, *(brief(part) for part in message.parts))
        for message in messages_for(instructions, turns, ORIGIN)
    ]
    return messages[:-1] if messages[-1] == ("ModelRequest", GO_ON) else messages


def brief(part: object) -> Any:
    match part:
        case UserPromptPart(content=content):
            return content
        case TextPart(content=content, id=id):
            return ("text", content) if id is None else ("text", content, id)
        case ThinkingPart(content=content, id=id, signature=signature):
            return ("thinking", content, id, signature)
        case ToolCallPart(tool_name=name, args=args, tool_call_id=call_id):
            return ("call", name, args, call_id)
        case ToolReturnPart(tool_name=name, content=content, tool_call_id=call_id, outcome=outcome):
            return ("result", name, content, call_id, outcome)
        case FilePart(content=content):
            return ("file", content.data)
    raise AssertionError(part)


CALL = ("call", "weather", {"city": "Rome"}, "c1")


def test_a_turn_is_a_request_and_an_answer() -> None:
    assert shown(user(text("hi")), assistant(STEP, text("hello"))) == [
        ("ModelRequest", "hi"),
        ("ModelResponse", ("text", "hello")),
    ]


def test_the_instructions_ride_on_the_last_request_only() -> None:
    messages = messages_for("be kind", [user(text("a")), assistant(text("b")), user(text("c"))], ORIGIN)
    assert [message.instructions for message in messages if isinstance(message, ModelRequest)] == [
        None,
        "be kind",
    ]


def test_instructions_alone_are_a_request() -> None:
    (only,) = messages_for("be kind", [assistant()], ORIGIN)
    assert isinstance(only, ModelRequest)
    assert only.instructions == "be kind"


def test_steps_are_separate_answers_with_the_results_in_between() -> None:
    turn = assistant(
        STEP, text("looking"), tool("output-available", output={"t": 20}), STEP, text("20"), STEP
    )
    assert shown(user(text("hi")), turn)[1:] == [
        ("ModelResponse", ("text", "looking"), CALL),
        ("ModelRequest", ("result", "weather", '{"t":20}', "c1", "success")),
        ("ModelResponse", ("text", "20")),
    ]


def test_parallel_calls_are_one_answer_and_one_request() -> None:
    second = tool("output-available", output="warm") | {"toolCallId": "c2"}
    assert shown(assistant(STEP, tool("output-available", output="hot"), second)) == [
        ("ModelResponse", CALL, ("call", "weather", {"city": "Rome"}, "c2")),
        (
            "ModelRequest",
            ("result", "weather", "hot", "c1", "success"),
            ("result", "weather", "warm", "c2", "success"),
        ),
    ]


@pytest.mark.parametrize(
    ("part", "content", "outcome"),
    [
        (tool("output-available", output="plain"), "plain", "success"),
        (tool("output-available", output=[1, None]), "[1,null]", "success"),
        (tool("output-available", output=None), "null", "success"),
        (tool("output-error", errorText="it broke"), "it broke", "failed"),
        (tool("output-denied", approval={"id": "p", "approved": False, "reason": "no"}), "no", "denied"),
        (tool("output-denied", approval={"id": "p", "approved": False}), DENIED, "denied"),
        (tool("approval-responded", approval={"id": "p", "approved": False, "reason": "no"}), "no", "denied"),
        (tool("approval-responded", approval={"id": "p", "approved": True}), NOT_RETURNED, "interrupted"),
        (tool("approval-requested", approval={"id": "p"}), WAITING, "interrupted"),
        (tool("input-available"), NOT_RETURNED, "interrupted"),
    ],
)
def test_every_call_is_answered(part: dict[str, Any], content: str, outcome: str) -> None:
    """Also the calls of an aborted run: providers refuse a call that nothing answers."""
    assert shown(user(text("go")), assistant(STEP, part), user(text("and?")))[1:] == [
        ("ModelResponse", CALL),
        ("ModelRequest", ("result", "weather", content, "c1", outcome), "and?"),
    ]


def test_text_behind_a_call_in_one_step_stands_before_its_result() -> None:
    """Only a step parts them, and calls come last: Anthropic wants their results right behind them."""
    turn = assistant(STEP, tool("output-available", output="hot"), text("so"))
    assert shown(turn) == [
        ("ModelResponse", ("text", "so"), CALL),
        ("ModelRequest", ("result", "weather", "hot", "c1", "success")),
    ]


def outputs(*items: Any, type: str = "content") -> Any:
    """What the model is shown of an output with these items."""
    (_, (_, result)) = shown(
        assistant(STEP, tool("output-available", output={"type": type, "value": list(items)}))
    )
    return result[2]


def test_an_output_of_texts_and_files_is_shown_as_such() -> None:
    shown = outputs(
        {"type": "text", "text": "the chart"},
        {"type": "media", "data": "iVBORw==", "mediaType": "image/png"},
        {"type": "image-data", "data": "iVBORw==", "mediaType": "image/png"},
        {"type": "file-data", "data": "aGk=", "mediaType": "text/csv", "filename": "a.csv"},
        {"type": "image-url", "url": "https://a.example/x.png"},
        {"type": "file-url", "url": "https://a.example/x.pdf"},
        {"type": "media", "data": "a", "mediaType": "image/png"},
    )
    assert shown[0] == "the chart"
    assert [(one.data, one.media_type) for one in shown[1:4]] == [
        (b"\x89PNG", "image/png"),
        (b"\x89PNG", "image/png"),
        (b"hi", "text/csv"),
    ]
    assert [type(one) for one in shown[4:6]] == [ImageUrl, DocumentUrl]
    assert shown[6] == "[The attachment of this message (image/png) cannot be read.]"


@pytest.mark.parametrize(
    ("items", "type"),
    [
        ([], "content"),
        ([{"type": "text"}], "content"),
        ([{"type": "text", "text": "a"}, {"type": "mystery"}], "content"),
        (["a"], "content"),
        ([{"type": "text", "text": "a"}], "other"),
    ],
)
def test_an_output_that_only_looks_like_that_is_shown_as_json(items: list[Any], type: str) -> None:
    """An application's own data may have such keys."""
    assert outputs(*items, type=type) == msgspec.json.encode({"type": type, "value": items}).decode()


@pytest.mark.parametrize(
    ("id", "keepers"),
    [
        ("functions.weather:0", {"openai"}),
        ("c" * 41, {"anthropic"}),
        ("c" * 65, set()),
        ("", set()),
        ("abcDEF123", {"openai", "anthropic", "mistral"}),
    ],
)
def test_a_call_s_id_is_made_fit_for_the_provider(id: str, keepers: set[str]) -> None:
    part = tool("output-available", output="hot") | {"toolCallId": id}
    for provider in ("openai", "anthropic", "mistral"):
        origin = ModelOrigin(provider, "m1", provider, rules=find_rules(provider, "m1"))
        response, request = messages_for("", [user(text("hi")), assistant(part)], origin)[1:]
        call, result = response.parts[0], request.parts[0]
        assert isinstance(call, ToolCallPart)
        assert isinstance(result, ToolReturnPart)
        assert call.tool_call_id == result.tool_call_id
        assert (call.tool_call_id == id) is (provider in keepers)


def test_what_is_not_for_the_model_is_left_out() -> None:
    turn = assistant(
        STEP,
        {"type": "data-operation", "data": {}},
        {"type": "source-url", "sourceId": "s", "url": "https://a.example"},
        {"type": "source-document", "sourceId": "s", "mediaType": "text/plain", "title": "t"},
        {"type": "custom", "kind": "a.b"},
        {"type": "reasoning-file", "mediaType": "image/png", "url": "data:,"},
        {"type": "tool-weather", "toolCallId": "c9", "state": "input-streaming", "rawInput": '{"ci'},
        tool("output-available", output=1, providerExecuted=True),
        text(""),
        STEP,
    )
    assert shown(turn, user(text("hi"))) == [("ModelRequest", "hi")]


@pytest.mark.parametrize("levels", [100, 101, 5_000])
def test_arguments_that_are_nested_too_deeply_are_sent_as_text(levels: int) -> None:
    """Stored, they made every later request fail: no library can write them."""
    value: Any = 0
    for _ in range(levels):
        value = {"a": value}
    part = tool("output-error", errorText="misfit") | {"input": value}
    call = messages_for("", [assistant(STEP, part)], ORIGIN)[0].parts[0]
    assert isinstance(call, ToolCallPart)
    assert isinstance(call.args, dict)
    assert ("unreadable_arguments" in call.args) is (levels > 100)


def test_a_dynamic_tool_is_called_by_its_name() -> None:
    part = tool("output-available", output="ok", dynamic=True) | {
        "type": "dynamic-tool",
        "toolName": "mcp_find",
    }
    assert shown(assistant(part))[0] == ("ModelResponse", ("call", "mcp_find", {"city": "Rome"}, "c1"))


@pytest.mark.parametrize(
    ("value", "sent"),
    [('{"ci', '{"unreadable_arguments":"{\\"ci"}'), ([1], '{"unreadable_arguments":"[1]"}')],
)
def test_arguments_that_are_no_object_still_reach_the_model(value: object, sent: str) -> None:
    response = messages_for(
        "", [assistant(tool("output-error", errorText="bad") | {"input": value})], ORIGIN
    )[0]
    assert isinstance(response, ModelResponse)
    call = response.parts[0]
    assert isinstance(call, ToolCallPart)
    assert call.args_as_json_str() == sent


def reasoning(value: str, **metadata: object) -> dict[str, Any]:
    return (
        {"type": "reasoning", "text": value, "providerMetadata": metadata}
        if metadata
        else {
            "type": "reasoning",
            "text": value,
        }
    )


OWN = {"model": "m1", "id": "rs_1", "signature": "sig"}


def test_reasoning_returns_to_its_model_with_its_signature() -> None:
    turn = assistant(STEP, reasoning("hm", openai=OWN), text("ok", providerMetadata={"openai": OWN}))
    (response, _) = messages_for("", [turn], ORIGIN)
    assert isinstance(response, ModelResponse)
    assert response.provider_name == "openai-compatible"
    assert [brief(part) for part in response.parts] == [
        ("thinking", "hm", "rs_1", "sig"),
        ("text", "ok", "rs_1"),
    ]
    assert {part.provider_name for part in response.parts} == {"openai-compatible"}


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"anthropic": OWN},
        {"openai": OWN | {"model": "m2"}},
        {"openai": {"id": "rs_1"}},
        {"openai": OWN | {"id": 1}},
        {"openai": None},
    ],
)
def test_reasoning_of_another_model_is_never_sent(metadata: dict[str, Any]) -> None:
    turn = assistant(STEP, reasoning("hm", **metadata), text("ok", providerMetadata=metadata))
    assert shown(turn)[0] == ("ModelResponse", ("text", "ok"))


def test_elsewhere_nothing_is_its_own() -> None:
    turn = assistant(STEP, reasoning("hm", openai=OWN), text("ok", providerMetadata={"openai": OWN}))
    (response, _) = messages_for("", [turn], ORIGIN.without_signatures())
    assert [brief(part) for part in response.parts] == [("text", "ok")]


def test_signatures_survive_the_way_into_the_log_and_back() -> None:
    part = ThinkingPart(
        "", id="redacted", signature="s", provider_name="openai-compatible", provider_details={"raw": [1]}
    )
    metadata: Any = ORIGIN.metadata(part)
    assert metadata == {
        "openai": {"model": "m1", "id": "redacted", "signature": "s", "details": {"raw": [1]}}
    }
    turn = assistant(reasoning("", **metadata), text("ok"))
    assert messages_for("", [turn], ORIGIN)[0].parts[0] == part


def test_reasoning_that_led_to_nothing_is_left_out() -> None:
    turn = assistant(STEP, text("first"), reasoning("and then", openai=OWN))
    assert shown(turn, user(text("go on"))) == [
        ("ModelResponse", ("text", "first")),
        ("ModelRequest", "go on"),
    ]


def test_messages_of_one_speaker_in_a_row_are_one() -> None:
    assert shown(assistant(text("a")), assistant(text("b")), user(text("c")), user(text("d")), user()) == [
        ("ModelResponse", ("text", "a"), ("text", "b")),
        ("ModelRequest", "c\n\nd"),
    ]


def test_system_messages_are_instructions() -> None:
    """Many models take no system message behind the first one."""
    turn = {"id": "s", "role": "system", "parts": [text("be "), text("kind")]}
    blank = {"id": "s", "role": "system", "parts": [text(" ")]}
    assert shown(turn, user(text("hi"))) == [("ModelRequest", "hi")]
    assert system_texts([turn, user(text("hi")), blank]) == ["be kind"]


def test_what_the_user_threw_in_stands_between_two_answers() -> None:
    steering = {"type": "steering-message", "id": "x", "parts": [text("faster")]}
    assert shown(assistant(STEP, text("slow"), steering, text("quick"))) == [
        ("ModelResponse", ("text", "slow")),
        ("ModelRequest", "faster"),
        ("ModelResponse", ("text", "quick")),
    ]


def attached(url: str, media_type: str = "", **more: object) -> Any:
    (message,) = messages_for(
        "", [user({"type": "file", "url": url, "mediaType": media_type, **more})], ORIGIN
    )
    (part,) = message.parts
    assert isinstance(part, UserPromptPart)
    return part.content if isinstance(part.content, str) else part.content[0]


@pytest.mark.parametrize(
    ("url", "media_type", "data", "seen_as"),
    [
        ("data:image/png;base64,iVBORw==", "image/png", b"\x89PNG", "image/png"),
        ("data:image/png;base64,iVBORw==", "", b"\x89PNG", "image/png"),
        ("data:image/png;base64,iVBORw==", "image/*", b"\x89PNG", "image/png"),
        ("data:;base64,aGk%3D", "text/csv", b"hi", "text/csv"),
        ("data:,a%20b", "", b"a b", "text/plain"),
    ],
)
def test_a_data_url_is_sent_as_its_bytes(url: str, media_type: str, data: bytes, seen_as: str) -> None:
    content = attached(url, media_type)
    assert isinstance(content, BinaryContent)
    assert (content.data, content.media_type) == (data, seen_as)


def test_a_remote_file_is_sent_as_its_address() -> None:
    image = attached("https://a.example/x", "image/png")
    assert isinstance(image, ImageUrl)
    assert (image.url, image.media_type) == ("https://a.example/x", "image/png")
    assert isinstance(attached("https://a.example/x.pdf", "application/pdf"), DocumentUrl)
    assert attached("https://a.example/x.png", "image/*").media_type == "image/png"


@pytest.mark.parametrize(
    ("state", "key"),
    [({"state": "input-available"}, "call"), ({"state": "output-error", "errorText": "misfit"}, "result")],
)
def test_a_call_comes_back_to_its_model_with_what_was_attached_to_it(state: dict[str, str], key: str) -> None:
    """Also one whose arguments did not fit."""
    kept: Any = ORIGIN.metadata(ToolCallPart("weather", {}, "c1", id="fc", provider_details={"s": "sig"}))
    part = tool(**state) | {f"{key}ProviderMetadata": kept}
    call = messages_for("", [assistant(STEP, part)], ORIGIN)[0].parts[0]
    assert isinstance(call, ToolCallPart)
    assert (call.id, call.provider_details, call.provider_name) == ("fc", {"s": "sig"}, ORIGIN.system)


def test_a_file_comes_back_to_its_model_with_what_was_attached_to_it() -> None:
    file = FilePart(BinaryContent(b"hi", media_type="text/plain"), id="f1", provider_details={"s": "sig"})
    metadata = ORIGIN.metadata(file)
    made = {"type": "file", "mediaType": "text/plain", "url": "data:,hi", "providerMetadata": metadata}
    part = messages_for("", [assistant(STEP, made)], ORIGIN)[0].parts[0]
    assert isinstance(part, FilePart)
    assert (part.id, part.provider_details, part.provider_name) == ("f1", {"s": "sig"}, ORIGIN.system)


@pytest.mark.parametrize("url", ["/files/1", "ftp://a.example/x", "data:image/png;base64,a"])
def test_an_unreadable_file_is_named_and_not_dropped(url: str) -> None:
    assert (
        attached(url, "image/png", filename="cat.png")
        == "[The attachment cat.png (image/png) cannot be read.]"
    )


def test_a_file_the_model_made_is_part_of_its_answer() -> None:
    made = {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,iVBORw=="}
    assert shown(assistant(STEP, made))[0] == ("ModelResponse", ("file", b"\x89PNG"))


@pytest.mark.parametrize(
    "module", ["rejoin_runner.models.providers.provider", "rejoin_runner.models.context_window"]
)
def test_the_library_is_not_loaded_before_it_is_needed(module: str) -> None:
    code = f"import sys, {module}; sys.exit(bool({{'pydantic_ai', 'openai', 'httpx2'}} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.feature("F120")
def test_a_note_replaces_a_file_that_the_model_cannot_take() -> None:
    """In a user's message and in a tool's output; and other files stay."""
    blind = msgspec.structs.replace(ORIGIN, refused_files=frozenset({"image/gif"}))
    gif = {"type": "file", "mediaType": "image/gif", "url": "data:image/gif;base64,AA==", "filename": "a.gif"}
    png = {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AA=="}
    output = {"type": "content", "value": [{"type": "media", "data": "AA==", "mediaType": "image/gif"}]}
    turns = [user(text("look"), gif, png), assistant(STEP, tool("output-available", output=output))]
    asked, _, returned = messages_for("", turns, blind)
    [prompt] = asked.parts
    assert isinstance(prompt, UserPromptPart)
    assert prompt.content == [
        "look",
        "[The attachment a.gif (image/gif, 1 bytes) is left out: this model cannot read it.]",
        BinaryContent(b"\0", media_type="image/png"),
    ]
    [result] = returned.parts
    assert isinstance(result, ToolReturnPart)
    assert (
        result.content
        == "[The attachment of this message (image/gif, 1 bytes) is left out: this model cannot read it.]"
    )


@pytest.mark.parametrize(
    ("state", "more", "said"),
    [
        ("output-available", {"output": "sunny"}, "sunny"),
        ("output-error", {"errorText": "no such city"}, "no such city"),
    ],
)
def test_the_model_learns_what_a_changed_call_ran_with(state: str, more: dict[str, Any], said: str) -> None:
    """The call stays as the model made it: providers sign it, and the model would take it for its own."""
    edit = EditedInput({"city": "Rome"}, "ann")
    changed = tool(state, **more) | {
        "input": {"city": "Oslo"},
        "callProviderMetadata": with_edit(None, edit),
    }
    [_, turn] = build_conversation([user(text("Weather?")), assistant(STEP, changed)], ORIGIN)
    assert isinstance(turn, AnswerTurn)
    [made] = turn.parts
    assert isinstance(made, MadeCall)
    assert made.arguments == {"city": "Rome"}
    assert turn.results[0].content == (EDITED.format(arguments='{"city":"Oslo"}'), said)
