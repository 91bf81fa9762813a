"""What the documentation says about the clients is true, as far as a test can check."""

import ast
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

import rejoin
import rejoin_client
from rejoin.testing import ScriptedModel, call, text
from rejoin_gateway import embed
from rejoin_runner.agent.agent import Agent
from rejoin_runner.tools.tool_decorator import tool
from tests.support.system.local_system import LocalSystem

ROOT = Path(__file__).parents[2]
PAGES = ("docs/clients.md", "clients/python/README.md")
SPOKEN_OF = {
    "client": rejoin_client.Client,
    "chat": rejoin_client.Chat,
    "executions": rejoin_client.Executions,
    "threads": rejoin_client.Threads,
    "rejoin": rejoin,
    "backend": embed.Rejoin,
    "session": embed.ChatSession,
}


def blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def trees(page: str) -> list[ast.Module]:
    plain = [textwrap.indent(code.replace("=…", "=''"), "    ") for code in blocks(page)]
    return [ast.parse(f"async def page():\n{code}") for code in plain]


@pytest.mark.parametrize("page", PAGES)
def test_the_code_on_the_page_uses_existing_names(page: str) -> None:
    found = trees(page)
    assert found
    for node in (node for tree in found for node in ast.walk(tree)):
        if isinstance(node, ast.Attribute):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else ast.unparse(node.value)
            kind = SPOKEN_OF.get(owner)
            known = kind is None or hasattr(kind, node.attr) or node.attr in kind.__annotations__
            assert known, ast.unparse(node)
        if isinstance(node, ast.MatchClass):
            assert hasattr(rejoin_client, ast.unparse(node.cls))


async def test_the_code_of_the_python_client_runs(system: LocalSystem) -> None:
    """It asks, reads the events, approves a call, looks whether something runs, and asks again."""

    @tool(needs_approval=True)
    async def pay(to: str) -> str:
        """Pay somebody."""
        return f"{to} has it."

    async def fetch_token() -> str:
        return "any"

    model = ScriptedModel([text("Well. "), call("pay", to="Ann")], "Paid.", "Nothing more.")
    await system.runner([Agent(name=system.agent, model=model, tools=[pay])])
    [code] = [block for block in blocks("docs/clients.md") if "async with Client(" in block]
    values = {
        "https://chat.example": await system.gateway(),
        "my-chat": system.fresh("s"),
        "support": system.agent,
    }
    for printed, value in values.items():
        assert printed in code
        code = code.replace(printed, value)
    said = list[str]()
    names: dict[str, Any] = {**vars(rejoin_client), "fetch_token": fetch_token, "questions": []}
    names["print"] = lambda text, end="\n": said.append(text + end)
    exec(f"async def page():\n{textwrap.indent(code, '    ')}", names)  # noqa: S102  # our own page
    await names["page"]()
    [asked] = names["questions"]
    assert (asked.tool_name, asked.input) == ("pay", {"to": "Ann"})
    assert "".join(said) == "Well. Nothing more.\n"


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_the_page_links_to_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target
