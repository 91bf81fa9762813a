"""Tools of MCP servers in an agent, with real servers of the official SDK on loopback."""

import asyncio
import gzip
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx2
import msgspec
import pytest

from rejoin_protocol.ids import CallId, RunId, SessionId
from rejoin_runner.agent.agent import Agent
from rejoin_runner.mcp.connection import open_connections
from rejoin_runner.mcp.remote_tool import RemoteTool
from rejoin_runner.mcp.safe_http import http_client
from rejoin_runner.mcp.server_declaration import McpServer
from rejoin_runner.mcp.toolbox import ServerTools, Toolbox
from rejoin_runner.models.model import Model
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_error import ToolError
from tests.support.models import mcp_server
from tests.support.models.mcp_server import PIXEL, Ledger, build_server, serve
from tests.support.models.scripted_models import SingleCallModel
from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.observation import wait_until

ERAS = pytest.mark.parametrize("old", [False, True])
CONTEXT: ToolContext[None] = ToolContext(RunId("run_1"), SessionId("s"), CallId("c"), None)


def at(port: int, **options: Any) -> McpServer:
    given: dict[str, Any] = {"name": "things", "allow_private": True, "timeout_s": 5.0} | options
    return McpServer(url=f"http://127.0.0.1:{port}/mcp", **given)


async def call(source: ServerTools, name: str, **arguments: Any) -> Any:
    return await Toolbox({}, [source])[name].call(arguments, CONTEXT)


@asynccontextmanager
async def connected(server: McpServer) -> AsyncIterator[ServerTools]:
    async with open_connections([server]) as sources:
        yield sources(server)


async def test_its_tools_are_found_and_called_with_their_schemas_as_given() -> None:
    ledger = Ledger()
    async with serve(build_server(ledger)) as port, connected(at(port)) as source:
        box = Toolbox({}, [source])
        assert set(box) == {f"things_{name}" for name in ("add", "picture", "broken", "wipe", "hang", "big")}
        schema = box["things_add"].spec.input_schema
        assert schema["properties"]["number"]["minimum"] == 0
        assert await call(source, "things_add", number=1, other=2) == {"result": 3}
        assert ledger.keys == ["run_1:c"]
        with pytest.raises(ToolError, match="number"):
            await call(source, "things_add", number=-1, other=2)
        with pytest.raises(ToolError, match="other"):
            await call(source, "things_add", number=1)
        assert ledger.calls == ["add"]


async def test_results_are_outputs_and_errors_in_the_servers_words() -> None:
    async with serve(build_server(Ledger())) as port, connected(at(port)) as source:
        shown = await call(source, "things_picture")
        assert shown == {
            "type": "content",
            "value": [
                {"type": "text", "text": "a pixel"},
                {"type": "image-data", "data": PIXEL, "mediaType": "image/png"},
            ],
        }
        with pytest.raises(ToolError, match="out of order"):
            await call(source, "things_broken")
        with pytest.raises(ToolError, match="at most 262144"):
            await call(source, "things_big")


async def test_only_what_is_allowed_is_there_and_annotations_say_what_may_be_repeated() -> None:
    async with serve(build_server(Ledger())) as port:
        server = at(port, tools=["add", "wipe", "none"], needs_approval={"wipe": True})
        async with connected(server) as source:
            assert set(source.tools) == {"things_add", "things_wipe"}
            add, wipe = source.tools["things_add"], source.tools["things_wipe"]
            assert (add.on_crash, add.needs_approval) == ("retry", None)
            assert (wipe.on_crash, wipe.needs_approval) == ("report", True)


@ERAS
async def test_a_server_that_comes_and_goes_costs_calls_and_comes_back(old: bool) -> None:
    ledger = Ledger()
    async with serve(build_server(ledger)) as port:
        pass
    server = at(port)
    async with connected(server) as source:
        with pytest.raises(ToolError, match="not connected"):
            await call(source, "things_add", number=1, other=2)
        for _ in range(2):
            async with serve(build_server(ledger), port, old=old):
                await wait_until(lambda: there(source), "the server's return")
                assert await call(source, "things_add", number=1, other=2) == {"result": 3}
            with pytest.raises(ToolError, match="disconnected"):
                await call(source, "things_wipe", path="x")
            assert "things_add" in source.tools, "what is known stays known"
            with pytest.raises((ToolError, TimeoutError)):
                await call(source, "things_add", number=1, other=2)
    assert ledger.calls.count("add") == 2


async def there(source: ServerTools) -> bool:
    return source.connected


@ERAS
async def test_a_restart_between_two_calls_is_not_seen_by_what_may_be_repeated(old: bool) -> None:
    ledger = Ledger()
    async with serve(build_server(ledger), old=old) as port:
        server = at(port)
        opening = connected(server)
        source = await opening.__aenter__()
        assert await call(source, "things_add", number=1, other=2) == {"result": 3}
    async with serve(build_server(ledger), port, old=old):
        if not source.connected:
            await wait_until(lambda: there(source), "the way back")
        assert await call(source, "things_add", number=2, other=2) == {"result": 4}
        await opening.__aexit__(None, None, None)


async def test_a_connection_that_breaks_in_a_call_is_told_or_tried_again() -> None:
    """What may not be repeated is of unknown outcome; what may is called once more."""
    ledger = Ledger()
    async with serve(build_server(ledger)) as port, Relay(port) as relay, connected(at(relay.port)) as source:
        tool = source.tools["things_hang"]
        async with asyncio.TaskGroup() as group:
            once = group.create_task(outcome(msgspec.structs.replace(tool, on_crash="report")))
            await wait_until(lambda: begun(ledger, 1), "the call")
            relay.cut()
            assert "unknown" in str(await once)
        await wait_until(lambda: there(source), "the way back")
        async with asyncio.TaskGroup() as group:
            again = group.create_task(outcome(tool))
            await wait_until(lambda: begun(ledger, 2), "the call")
            relay.cut()
            await wait_until(lambda: begun(ledger, 3), "its repetition")
            ledger.hold.set()
            assert await again == {"result": "after all"}


async def begun(ledger: Ledger, calls: int) -> bool:
    return ledger.calls.count("hang") == calls


async def outcome(tool: RemoteTool) -> Any:
    try:
        return await tool.call({}, CONTEXT)
    except ToolError as fault:
        return fault


class Relay:
    """A way to a port that can be cut."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._group = await asyncio.TaskGroup().__aenter__()
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await self._group.__aexit__(None, None, None)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers |= {writer, inner_writer}
        self._group.create_task(_pour(reader, inner_writer))
        self._group.create_task(_pour(inner_reader, writer))


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
    writer.close()


async def test_a_server_that_hangs_is_left_after_its_timeout() -> None:
    ledger = Ledger()
    async with serve(build_server(ledger)) as port, connected(at(port, timeout_s=2.0)) as source:
        async with asyncio.timeout(5):
            with pytest.raises(TimeoutError):
                await call(source, "things_hang")
        assert await call(source, "things_add", number=1, other=2) == {"result": 3}


async def test_a_server_that_never_answers_does_not_hold_up_the_start() -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        async with asyncio.timeout(8), connected(at(port, timeout_s=1.0)) as source:
            assert not source.connected
            with pytest.raises(ToolError, match="not connected"):
                await call(source, "things_add")


async def test_a_private_address_is_not_connected_to_unless_it_is_trusted() -> None:
    ledger = Ledger()
    async with serve(build_server(ledger)) as port:
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]"):
            server = McpServer(name="things", url=f"http://{host}:{port}/mcp", timeout_s=2)
            async with connected(server) as source:
                assert not source.connected, host


@pytest.mark.parametrize(
    ("headers", "piece"),
    [
        ("Content-Type: application/json", b" " * 1_048_576),
        ("Content-Type: text/event-stream", b"data: " + b"x" * 1_048_576),
    ],
    ids=["json", "event"],
)
async def test_an_endless_answer_is_not_read_to_its_end(headers: str, piece: bytes) -> None:
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\n{headers}\r\nConnection: close\r\n\r\n".encode())
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(piece)
                sent += 1
                await writer.drain()

    listening = await asyncio.start_server(pour, "127.0.0.1", 0)
    async with listening, connected(at(listening.sockets[0].getsockname()[1])) as source:
        assert not source.connected
        assert sent < 100
        listening.close()


async def test_a_compressed_answer_is_neither_asked_for_nor_read() -> None:
    """A megabyte of it may be a gigabyte."""

    async def compress(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"\r\naccept-encoding: identity\r\n" in (await reader.readuntil(b"\r\n\r\n")).lower()
        body = gzip.compress(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(compress, "127.0.0.1", 0)
    async with listening, http_client(at(listening.sockets[0].getsockname()[1])) as http:
        with pytest.raises(httpx2.ReadError, match="compressed"):
            await http.get(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/")


async def test_a_server_may_be_a_command() -> None:
    script = Path(mcp_server.__file__)
    server = McpServer(name="local", command=[sys.executable, str(script)], timeout_s=30)
    async with open_connections([server]) as sources:
        source = sources(server)
        await wait_until(lambda: there(source), "the server's start")
        assert await call(source, "local_add", number=1, other=2) == {"result": 3}


async def test_equal_servers_share_a_connection() -> None:
    async with serve(build_server(Ledger())) as port, open_connections([at(port), at(port)]) as sources:
        assert sources(at(port)) is sources(at(port))


# ------------------------------------------------------------------------------------ in a run


async def ask(
    system: LocalSystem, model: Model, servers: list[McpServer], **options: Any
) -> tuple[str, str, Answer]:
    agent = Agent(name=system.agent, model=model, mcp=servers, **options)
    await system.runner([agent])
    base, session = await system.gateway(), system.fresh("s")
    return base, session, await system.post(base, system.chat(session, "go"))


def results(answer: Answer) -> list[dict[str, Any]]:
    return [chunk for chunk in answer.chunks if chunk["type"].startswith("tool-output")]


async def test_a_run_calls_a_servers_tool_like_its_own(system: LocalSystem) -> None:
    async with serve(build_server(Ledger())) as port:
        model = SingleCallModel("things_add", {"number": 2, "other": 3})
        _, _, answer = await ask(system, model, [at(port)])
        assert [one["output"] for one in results(answer)] == [{"result": 5}]
        assert answer.text == "Done."


async def test_arguments_that_do_not_fit_are_told_to_the_model(system: LocalSystem) -> None:
    ledger = Ledger()
    async with serve(build_server(ledger)) as port:
        _, _, answer = await ask(system, SingleCallModel("things_add", {"number": "two"}), [at(port)])
        assert [chunk for chunk in answer.chunks if chunk["type"] == "tool-input-error"]
        assert answer.complete
        assert ledger.calls == []


@pytest.mark.parametrize("way", ["server", "agent", "function"])
async def test_a_person_is_asked_where_the_policy_says_so(system: LocalSystem, way: str) -> None:
    ledger = Ledger()
    asked: dict[str, Any] = {"wipe": True}
    if way == "function":
        asked = {"wipe": lambda input, _: input["path"] == "all"}
    servers = {} if way == "agent" else {"needs_approval": asked}
    agents = {"needs_approval": {"things_wipe": True}} if way == "agent" else {}
    async with serve(build_server(ledger)) as port:
        model = SingleCallModel("things_wipe", {"path": "all"})
        base, session, answer = await ask(system, model, [at(port, **servers)], **agents)
        assert [chunk for chunk in answer.chunks if chunk["type"] == "tool-approval-request"]
        assert ledger.calls == []
        decided = await system.post(base, await system.decision(base, session, approved=True))
        assert [one["output"] for one in results(decided)] == [{"result": "all is gone"}]
        assert ledger.calls == ["wipe all"]


async def test_a_runner_starts_without_its_server_and_the_run_is_told(system: LocalSystem) -> None:
    async with serve(build_server(Ledger())) as port:
        pass
    _, _, answer = await ask(system, SingleCallModel("things_add", {"number": 1, "other": 1}), [at(port)])
    [result] = results(answer)
    assert "not connected" in result["errorText"]
    assert answer.text == "Done."


async def test_two_agents_of_a_process_use_one_connection(system: LocalSystem) -> None:
    ledger = Ledger()
    async with serve(build_server(ledger)) as port:
        agents = [
            Agent(name=name, model=SingleCallModel("things_add", {"number": 1, "other": 1}), mcp=[at(port)])
            for name in (system.agent, f"{system.agent}-b")
        ]
        await system.runner(agents)
        base = await system.gateway()
        for agent in agents:
            url = f"{base}/api/agents/{agent.name}/{system.fresh('s')}"
            async with system.http.post(url, json={"message": "go"}) as response:
                answer = await Answer.of(response)
            assert [one["output"] for one in results(answer)] == [{"result": 2}]
        assert len({msgspec.json.encode(key) for key in ledger.keys}) == 2
