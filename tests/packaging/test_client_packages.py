"""The packages of the clients are built as their READMEs say, and work where only they are installed."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rejoin.testing import ScriptedModel, call, output
from rejoin_runner.agent.agent import Agent
from rejoin_runner.tools.client_tool import client_tool
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool
from tests.support.browser.node import find_node, run_command
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until
from tests.support.system.uv import ROOT, Environment, locked_versions, run_uv

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPT = "gateway/rejoin_gateway/ui/static/answer.js"
PYTHON = """
import inspect, rejoin_client
assert not [name for name in rejoin_client.__all__ if not hasattr(rejoin_client, name)]
print(sorted(inspect.signature(rejoin_client.Chat.approve).parameters))
"""
JAVASCRIPT = """
import { RejoinChatTransport } from 'rejoin';

const [base, agent, ...sessions] = process.argv.slice(2);
const transport = new RejoinChatTransport({ api: `${base}/api/chat`, headers: { 'x-agent-id': agent } });

async function read(stream, look = () => {}) {
  const chunks = [];
  for await (const chunk of stream) {
    await look(chunk);
    chunks.push(chunk);
  }
  return chunks;
}

async function say(chatId, text, look) {
  const message = { id: `m-${chatId}`, role: 'user', parts: [{ type: 'text', text }] };
  return read(await transport.sendMessages({ chatId, messages: [message], trigger: 'submit-message' }), look);
}

const [pays, located, steered] = sessions;
const { approvalId } = (await say(pays, 'Pay Ann')).find(({ type }) => type === 'tool-approval-request');
const edited = { approved: true, reason: 'less', input: { to: 'Ann', cents: 800 } };
const paid = await read(await transport.approve(pays, approvalId, edited));
const asked = await say(located, 'Where am I?');
const { toolCallId } = asked.find(({ type }) => type === 'tool-input-available');
const found = await read(await transport.addToolOutput(located, toolCallId, { output: { city: 'Oslo' } }));
let said;
const heard = await say(steered, 'Wait', async ({ type }) => {
  if (type === 'tool-input-available') said = await transport.steer(steered, 'Enough');
});
console.log(JSON.stringify({ paid, found, heard, said }));
"""
"""Every flow of the transport, against a gateway."""


class Place(msgspec.Struct):
    """Where somebody is."""

    city: str


def run(folder: Path, *command: str | Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_of_the_python_client_works_alone(tmp_path: Path) -> None:
    run_uv("build", ROOT / "clients/python", "--out-dir", tmp_path / "dist", "--python", sys.executable)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    environment = Environment(tmp_path / "venv")
    environment.install(str(wheel), constraints=locked_versions(tmp_path / "constraints.txt"))
    names = environment.names()
    assert {"rejoin-client", "aiohttp", "msgspec"} <= names
    assert "rejoin" not in names
    assert "'input'" in run(tmp_path, environment.python, "-c", PYTHON)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with what `npm pack` makes of a copy: it puts the file in the place of the link."""
    find_node()
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("npm")
    assert npm is not None
    source = folder / "clone/clients/js"
    shutil.copytree(ROOT / "clients/js", source, symlinks=True)
    (folder / "clone" / SCRIPT).parent.mkdir(parents=True)
    shutil.copy(ROOT / SCRIPT, folder / "clone" / SCRIPT)
    project = folder / "project"
    project.mkdir()
    run(project, npm, "pack", source, "--offline")
    [packed] = project.glob("rejoin-*.tgz")
    run(project, npm, "init", "--yes")
    run(project, npm, "install", f"./{packed.name}", "--offline", "--no-audit", "--no-fund")
    assert (source / "answer.js").is_symlink()
    return project


def test_the_npm_package_has_the_transport_and_its_types(project: Path) -> None:
    installed = project / "node_modules/rejoin"
    assert (installed / "answer.js").read_text() == (ROOT / SCRIPT).read_text()
    assert {path.name for path in installed.iterdir()} == {
        "README.md",
        "answer.js",
        "package.json",
        "rejoin.d.ts",
        "rejoin.js",
    }


@pytest.mark.feature("F104", "F105", "F106", "F121")
async def test_the_installed_transport_steers_edits_and_answers(system: LocalSystem, project: Path) -> None:
    """An approval with changed arguments, the output of a client tool, a steering message, typed answers."""
    base, sessions = await system.gateway(), [system.fresh("s") for _ in range(3)]

    @tool(needs_approval=True, approval_edits=True)
    async def pay(ctx: ToolContext[None], to: str, cents: int) -> str:
        """Pay somebody."""
        assert ctx.approval is not None
        return f"{to} has {cents}: {ctx.approval.reason}"

    @tool
    async def wait() -> str:
        """Wait for a message that steers."""

        async def is_steered() -> bool:
            history = await system.get(f"{base}/api/agents/{system.agent}/{sessions[2]}")
            return bool(history.json.get("steeringMessages"))

        await wait_until(is_steered, "a message that steers")
        return "waited"

    locate = client_tool("locate", "Where is the user?", output=Place)
    places = [Place("Rome"), Place("Oslo"), Place("Bern")]
    calls = [call("pay", to="Ann", cents=900), call("locate"), call("wait")]
    model = ScriptedModel(*(one for pair in zip(calls, map(output, places), strict=True) for one in pair))
    await system.runner([Agent(name=system.agent, model=model, tools=[pay, wait, locate], output=Place)])
    (project / "page.mjs").write_text(JAVASCRIPT)
    code, said = await run_command(
        project, find_node(), "page.mjs", base, system.agent, *sessions, seconds=60.0
    )
    assert code == 0, said
    shown = msgspec.json.decode(said.splitlines()[-1])
    assert shown["said"]["steering"] is True

    def find(name: str, type: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = [one for one in shown[name] if one["type"] == type]
        return found[-1]

    assert find("paid", "tool-output-available")["output"] == "Ann has 800: less"
    assert find("found", "tool-output-available")["output"] == {"city": "Oslo"}
    assert find("heard", "steering-message")["parts"] == [{"type": "text", "text": "Enough"}]
    outputs = [find(name, "data-output")["data"] for name in ("paid", "found", "heard")]
    assert outputs == [{"city": "Rome"}, {"city": "Oslo"}, {"city": "Bern"}]
