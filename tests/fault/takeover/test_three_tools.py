"""Two steps, three tools, one approval: the runner crashes at every append and before every acknowledgement.

One tool may be repeated, one must not be, and one needs an approval. Always: one message, each tool by its
policy, every event once for every client.
"""

from collections import Counter

import pytest

from tests.support.clients.full_answer import collect_answer
from tests.support.faults.crashing_runners import crash_at_append, crash_before_acknowledgement
from tests.support.models.three_tools import TOOLS, build_agent, check, count_into
from tests.support.system.local_system import LocalSystem


@pytest.mark.feature("F71", "F84", "F88")
@pytest.mark.parametrize("stored", [False, True], ids=["before it is stored", "after it is stored"])
async def test_its_runner_died_at_an_append(
    system: LocalSystem, *, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = crash_at_append(monkeypatch, stored=stored)
    runs: Counter[str] = Counter()
    base = await system.gateway()
    await system.runner([build_agent(system.agent, count_into(runs))], retry_delay_s=0.0)
    await collect_answer(system, base, "go")
    for at in range(crash.count):
        crash.next(at)
        runs.clear()
        check((await collect_answer(system, base, "go")).message, runs, f"died at append {at}")


@pytest.mark.feature("F71", "F88")
async def test_its_runner_died_before_an_acknowledgement(
    system: LocalSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Completed work is not repeated, although the request was not acknowledged."""
    crash = crash_before_acknowledgement(monkeypatch)
    runs: Counter[str] = Counter()
    base = await system.gateway()
    await system.runner([build_agent(system.agent, count_into(runs))], retry_delay_s=0.0)
    for at in range(2):  # the turn that asked, and the turn that was approved
        crash.next(at)
        runs.clear()
        check((await collect_answer(system, base, "go")).message, runs, f"died before acknowledgement {at}")
        assert runs == dict.fromkeys(TOOLS, 1)
