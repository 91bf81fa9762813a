"""Two steps, three tools, one approval: its runner dies at every append and before every acknowledgement.

One tool may be repeated, one must not be, and one needs a person's word. Whatever died: one message, each
tool as its policy says, every viewer every event once.
"""

from collections import Counter

import pytest

from tests.support.clients.full_answer import hear
from tests.support.faults.crashing_runners import at_append, before_acknowledgement
from tests.support.models.three_tools import TOOLS, agent_of, check, counted
from tests.support.system.local_system import LocalSystem


@pytest.mark.feature("F71", "F84", "F88")
@pytest.mark.parametrize("stored", [False, True], ids=["before it is stored", "after it is stored"])
async def test_its_runner_died_at_an_append(
    system: LocalSystem, *, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F71, F84, F88."""
    death = at_append(monkeypatch, stored=stored)
    runs: Counter[str] = Counter()
    base = await system.gateway()
    await system.runner([agent_of(system.agent, counted(runs))], retry_delay_s=0.0)
    await hear(system, base, "go")
    for at in range(death.count):
        death.next(at)
        runs.clear()
        check((await hear(system, base, "go")).message, runs, f"died at append {at}")


@pytest.mark.feature("F71", "F88")
async def test_its_runner_died_before_an_acknowledgement(
    system: LocalSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is acknowledged is done; what is done and not acknowledged is not done again."""
    death = before_acknowledgement(monkeypatch)
    runs: Counter[str] = Counter()
    base = await system.gateway()
    await system.runner([agent_of(system.agent, counted(runs))], retry_delay_s=0.0)
    for at in range(2):  # the turn that asked, and the turn that was approved
        death.next(at)
        runs.clear()
        check((await hear(system, base, "go")).message, runs, f"died before acknowledgement {at}")
        assert runs == dict.fromkeys(TOOLS, 1)
