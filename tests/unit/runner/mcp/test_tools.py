"""How an MCP server's tools become an agent's tools. No server is needed."""

from typing import Any

import pytest

from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import CallId, RunId, SessionId
from rejoin_runner.agent.agent import Agent
from rejoin_runner.mcp.remote_tool import RemoteTool, build_remote_tool, parse_result, tool_name
from rejoin_runner.mcp.server_declaration import McpServer
from rejoin_runner.mcp.toolbox import ServerTools, Toolbox
from rejoin_runner.models.demo_model import DemoModel
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool
from rejoin_runner.tools.tool_error import ToolError

SERVER = McpServer(name="box", url="https://box.example/mcp", headers={"Authorization": "Bearer s3cret"})
CONTEXT: ToolContext[None] = ToolContext(RunId("run_1"), SessionId("s"), CallId("c"), None)


async def send(tool: RemoteTool, input: Any, context: ToolContext[Any]) -> Any:
    del context
    return [tool.remote_name, input]


def listed(name: str = "open", schema: Any = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": schema or {"type": "object"}} | more


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "box"}, "url or a command"),
        ({"name": "box", "url": "https://a.example", "command": ["x"]}, "url or a command"),
        ({"name": "a_b", "url": "https://a.example"}, "letters"),
        ({"name": "transfer", "command": ["x"]}, "other agents"),
        ({"name": "delegate", "command": ["x"]}, "other agents"),
        ({"name": "box", "url": "ftp://a.example"}, "http"),
        ({"name": "box", "url": "https://me:secret@a.example/"}, "without credentials"),
        ({"name": "box", "command": ["x"], "timeout_s": 0}, "timeout_s"),
    ],
)
def test_a_wrong_server_is_refused_in_one_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        McpServer(**options)


def test_a_server_does_not_show_its_secrets() -> None:
    assert "s3cret" not in repr(SERVER)


def test_an_agent_with_servers_is_checked_at_its_making() -> None:
    @tool(name="box_open")
    async def opens() -> str:
        """Open."""
        return ""

    other = McpServer(name="box", command=["x"])
    for options, words in (
        ({"tools": [opens]}, "box_open"),
        ({"mcp": [SERVER, other]}, "two MCP servers"),
        ({"needs_approval": {"other_open": True}}, "other_open"),
    ):
        given: dict[str, Any] = {"mcp": [SERVER], **options}
        with pytest.raises(Invalid, match=words):
            Agent(name="a", model=DemoModel(), **given)
    Agent(name="a", model=DemoModel(), mcp=[SERVER], needs_approval={"box_open": True})


def test_names_fit_every_provider_and_stay_apart() -> None:
    assert tool_name(SERVER, "files.open/all") == "box_files_open_all"
    long = [tool_name(SERVER, "x" * 100 + end) for end in "ab"]
    assert all(len(name) == 64 for name in long)
    assert len(set(long)) == 2


def test_a_schema_is_checked_as_given_and_fetches_nothing() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 3}}, "required": ["n"]}
    made = build_remote_tool(SERVER, listed(schema=schema), send)
    assert made.spec.input_schema == schema
    made.check_arguments({"n": 3})
    wrong: Any
    for wrong in ({}, {"n": 4}, {"n": "3"}, [], None):
        with pytest.raises(ToolError, match="do not fit"):
            made.check_arguments(wrong)
    elsewhere = build_remote_tool(SERVER, listed(schema={"$ref": "http://127.0.0.1:1/schema.json"}), send)
    with pytest.raises(ToolError, match="broken reference"):
        elsewhere.check_arguments({})


def test_a_schema_that_is_none_or_too_large_is_refused() -> None:
    for schema in ({"type": "thing"}, {"type": "object", "description": "x" * 70_000}):
        with pytest.raises(Invalid):
            build_remote_tool(SERVER, listed(schema=schema), send)


@pytest.mark.parametrize(
    ("hints", "on_crash"),
    [
        (None, "report"),
        ({}, "report"),
        ({"readOnlyHint": True}, "retry"),
        ({"idempotentHint": True}, "retry"),
        ({"readOnlyHint": False, "idempotentHint": None}, "report"),
    ],
)
def test_only_what_says_so_is_made_again(hints: Any, on_crash: str) -> None:
    assert build_remote_tool(SERVER, listed(annotations=hints), send).on_crash == on_crash


TEXT = {"type": "text", "text": "hi"}


@pytest.mark.parametrize(
    ("result", "output"),
    [
        ({"content": [TEXT]}, "hi"),
        ({"content": [TEXT, TEXT]}, "hi\nhi"),
        ({"content": []}, ""),
        ({"content": [TEXT], "structuredContent": {"a": 1}}, {"a": 1}),
        ({"content": [TEXT], "structuredContent": 0}, 0),
        ({"content": [{"type": "resource", "resource": {"uri": "a:", "text": "in"}}]}, "in"),
        ({"content": [{"type": "resource_link", "uri": "a:b", "name": "it"}]}, "it: a:b"),
        (
            {"content": [{"type": "resource", "resource": {"uri": "a:", "blob": "AA==", "mimeType": "a/b"}}]},
            {"type": "content", "value": [{"type": "file-data", "data": "AA==", "mediaType": "a/b"}]},
        ),
        (
            {
                "content": [{"type": "image", "data": "AA==", "mimeType": "image/png"}],
                "structuredContent": {"a": 1},
            },
            {
                "type": "content",
                "value": [
                    {"type": "image-data", "data": "AA==", "mediaType": "image/png"},
                    {"type": "text", "text": '{"a":1}'},
                ],
            },
        ),
    ],
)
def test_a_result_is_an_output(result: dict[str, Any], output: Any) -> None:
    assert parse_result(result) == output


def test_a_failed_result_is_an_error_in_its_words() -> None:
    with pytest.raises(ToolError, match="hi"):
        parse_result({"content": [TEXT], "isError": True})
    with pytest.raises(ToolError, match="did not say why"):
        parse_result({"content": [], "isError": True})


async def test_a_box_holds_its_own_tools_and_those_that_are_there() -> None:
    @tool
    async def mine() -> str:
        """Mine."""
        return ""

    source = ServerTools(SERVER, send)
    box = Toolbox({"mine": mine}, [source])
    assert list(box) == ["mine"]
    assert "box_open" in box, "nobody knows yet"
    assert await box["box_open"].call({}, CONTEXT) == ["", {}]
    assert box.get("other_open") is None
    found = build_remote_tool(SERVER, listed(), send)
    source.tools, source.connected = {found.name: found}, True
    assert list(box) == ["mine", "box_open"]
    assert len(box) == 2
    assert box["box_open"] is found
    assert box.get("box_shut") is None
    source.connected = False
    assert box["box_open"] is found, "what is known stays known"
