"""The README's agent, settings and make targets are correct."""

import re
from pathlib import Path

import msgspec

from rejoin_gateway.settings import GatewaySettings
from rejoin_runner.agent.agent import Agent
from rejoin_runner.settings import RunnerSettings

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_agent_of_the_readme_can_be_served() -> None:
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)  # noqa: S102  # our own document
    agent = names["agent"]
    assert isinstance(agent, Agent)
    [refund] = agent.tools
    assert refund.spec.input_schema["required"] == ["order", "cents"]


def test_every_setting_it_names_exists_with_its_default() -> None:
    fields = {
        field.name: field
        for kind in (GatewaySettings, RunnerSettings)
        for field in msgspec.structs.fields(kind)
    }
    section = README.split("| setting | default |")[1].split("\n\n")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    assert rows
    for _, names, defaults, *_ in rows:
        for name, default in zip(
            re.findall(r"`(\w+)`", names), [*defaults.split(","), "", "", ""], strict=False
        ):
            value = fields[name.lower()].default
            said = default.strip()
            assert not said or str(value) == said or float(said) == value, name


def test_its_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
