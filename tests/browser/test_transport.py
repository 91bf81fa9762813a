"""`clients/js`: the transport below the AI SDK's own client, through every kind of cut. The cases run in
Node.
"""

import pytest

from tests.support.browser.browser_site import HERE
from tests.support.browser.node import run_command

CASES_S_MAX = 100.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


async def test_the_transport_keeps_its_promises(node: str) -> None:
    """Cuts at every event, gateways away, 410, refusals, stop: what the client holds is the whole answer."""
    code, said = await run_command(
        HERE, node, "--test", "--test-reporter=tap", str(HERE / "transport.mjs"), seconds=CASES_S_MAX
    )
    assert code == 0, said[-6_000:]
    assert "# fail 0" in said
