"""`convertToModelMessages` of the real clients on a stored conversation: its URLs lead to the files."""

import base64
from pathlib import Path

import msgspec
import pytest

from rejoin_runner.agent.agent import Agent
from tests.support.browser.browser_site import LoadBalancer
from tests.support.browser.node import INSTALL_S_MAX, install_packages, run_command
from tests.support.clients.attachments import PNG, inline_file_part
from tests.support.clients.file_messages import chat_with_parts, post_chat
from tests.support.models.scripted_models import PictureModel
from tests.support.system.local_system import LocalSystem

HERE = Path(__file__).parent
KEYS = "k1:" + base64.b64encode(bytes(32)).decode()
SCRIPT_S_MAX = 60.0


@pytest.mark.slow
@pytest.mark.timeout(INSTALL_S_MAX + SCRIPT_S_MAX)
@pytest.mark.feature("F120")
async def test_every_client_can_give_stored_files_to_a_model_of_its_own(
    system: LocalSystem, tmp_path: Path
) -> None:
    """Those that the user sent and those that the model made."""
    node = await install_packages(HERE)
    await system.runner([Agent(name=system.agent, model=PictureModel(PNG))])
    async with LoadBalancer([]).open() as front:
        base = await system.gateway(context_encryption_keys=KEYS, public_url=front.base)
        front.ports.append(int(base.rpartition(":")[2]))
        chat = chat_with_parts(system, inline_file_part(PNG, "image/png"))
        assert (await post_chat(system, front.base, chat)).complete
        history = await system.get(f"{front.base}/api/agents/{system.agent}/{chat['id']}")
        stored = tmp_path / "messages.json"
        stored.write_bytes(msgspec.json.encode(history.json["messages"]))
        code, said = await run_command(HERE, node, "file_urls.mjs", str(stored), seconds=SCRIPT_S_MAX)
    assert code == 0, said[-2_000:]
    expected = {"status": 200, "type": "image/png", "base64": base64.b64encode(PNG).decode()}
    results = [msgspec.json.decode(line) for line in said.splitlines() if line.startswith("{")]
    assert len(results) >= 5
    assert {result["name"]: result["fetched"] for result in results} == {
        result["name"]: [expected, expected] for result in results
    }
