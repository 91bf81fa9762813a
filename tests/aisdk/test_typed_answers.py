"""Typed answers in the real AI SDK clients: a part that grows, the text of a chat, a completion."""

from pathlib import Path

import msgspec
import pytest

from rejoin.testing import ScriptedModel, output
from rejoin_runner.agent.agent import Agent
from tests.aisdk.test_conformance import CLIENTS
from tests.support.browser.node import INSTALL_S_MAX, install_packages, run_command
from tests.support.system.local_system import LocalSystem

HERE = Path(__file__).parent
VERSIONS = [client for client in CLIENTS if "?" not in client]
RECIPE = {"name": "Soup 🍲", "steps": ["Cut.", "Boil."]}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(INSTALL_S_MAX + 120)]


class Recipe(msgspec.Struct):
    """A recipe."""

    name: str
    steps: list[str]


@pytest.mark.feature("F105")
@pytest.mark.parametrize("version", VERSIONS)
async def test_every_generation_reads_a_typed_answer(system: LocalSystem, version: str) -> None:
    node = await install_packages(HERE)
    model = ScriptedModel(*([output(RECIPE)] * 4))
    await system.runner([Agent(name=system.agent, model=model, output=Recipe, text_interval_s=0)])
    base = await system.gateway()
    code, said = await run_command(
        HERE, node, str(HERE / "typed.mjs"), base, system.agent, version, seconds=60.0
    )
    assert code == 0, said
    found = msgspec.json.decode(said.splitlines()[-1])
    assert len(found["growth"]) > 1
    assert found["output"] == {"type": "data-output", "id": "output", "data": RECIPE}
    assert found["state"] == "done"
    whole = msgspec.json.encode(RECIPE).decode()
    assert (found["text"], found["completion"], found["events"]) == (whole, whole, "")
