"""`docs/which-api.md` names the base URL that each API's clients expect, and how to serve a gateway there."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from rejoin.cli.main import main

PAGE = Path(__file__).parents[3] / "docs" / "which-api.md"


def section() -> str:
    return PAGE.read_text(encoding="utf-8").partition("### Base URLs\n")[2].partition("\n## ")[0]


@pytest.mark.feature("F95")
@pytest.mark.parametrize(
    ("api", "url"),
    [
        ("AI SDK", "/api/chat"),
        ("Session", "/api/agents/{agent}/{session}"),
        ("Run", "http://localhost:3002"),
        ("graph", "http://localhost:3003"),
        ("message parts", "http://localhost:4111"),
        ("agent chat", "/api/agent/chat"),
    ],
)
def test_each_api_has_the_base_url_that_its_clients_expect(api: str, url: str) -> None:
    [row] = [line for line in section().splitlines() if line.startswith(f"| {api}")]
    assert url in row


@pytest.mark.feature("F95")
def test_the_lines_that_serve_it_there_are_a_setting_and_a_command_that_exist() -> None:
    [lines] = re.findall(r"```sh\n(.*?)```", section(), re.DOTALL)
    setting, command = lines.strip().splitlines()
    assert setting.startswith("export REJOIN_CORS_ORIGINS=")
    assert command.startswith("rejoin dev --port 3002 --gateways 2")
    help_text = CliRunner().invoke(main, ["dev", "--help"]).output
    assert "--port" in help_text
    assert "--gateways" in help_text
