"""The requests that the documentation shows as curl commands work as printed, with the demo agent."""

import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.browser.node import run_command, skip_or_fail
from tests.support.system.processes import Dev, rejoin_dev

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs"
REQUEST_S_MAX = 60.0


def commands(page: str) -> list[str]:
    """The page's blocks of curl commands."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if block.startswith("curl ")]


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Dev]:
    if shutil.which("curl") is None:
        skip_or_fail("the documented requests need curl")
    async with rejoin_dev(tmp_path_factory.mktemp("documented"), each=1) as running:
        yield running


async def run(running: Dev, commands: str, **replacements: str) -> str:
    """What the commands print, at the port of the running gateway. Every HTTP error fails."""
    here = commands.replace("localhost:8080", running.gateways[0].removeprefix("http://"))
    for printed, value in replacements.items():
        assert printed in here
        here = here.replace(printed, value)
    checked = here.replace("curl ", "curl --silent --show-error --fail-with-body ")
    code, output = await run_command(running.place, "sh", "-euc", checked, seconds=REQUEST_S_MAX)
    assert code == 0, output
    return output


async def test_the_quickstart_resumes_after_the_last_event_that_was_seen(running: Dev) -> None:
    send, resume = commands("quickstart.md")
    whole = await run(running, send.replace("every 200 ms", "every 5 ms"))
    ids = re.findall(r"^id: (\S+)$", whole, re.MULTILINE)
    seen = ids[len(ids) // 2]
    rest = await run(running, resume, **{"41-17": seen})
    assert rest.endswith("data: [DONE]\n\n")
    assert whole.endswith(rest)
    assert f"id: {seen}\n" not in rest


async def test_the_session_api_answers_and_returns_the_history(running: Dev) -> None:
    session, _ = commands("which-api.md")
    output = await run(running, session)
    assert "data: [DONE]" in output
    assert '"id":"trip-1"' in output


async def test_the_run_api_starts_a_run_and_returns_its_state(running: Dev) -> None:
    _, run_api = commands("which-api.md")
    start, _, show = run_api.partition("curl localhost:8080/run/api/executions/")
    output = await run(running, start.replace("-N ", "-N --dump-header - "))
    [run_id] = re.findall(r"^x-workflow-run-id: (\S+)\s*$", output, re.MULTILINE | re.IGNORECASE)
    state = await run(running, "curl localhost:8080/run/api/executions/" + show, **{"run_01…": run_id})
    assert f'"id":"{run_id}"' in state
