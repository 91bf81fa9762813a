"""An agent that emits many small deltas, for a runner that a test kills."""

import os

from rejoin_runner.agent.agent import Agent
from tests.support.models.scripted_models import BurstModel


def talkative(name: str) -> Agent:
    """Each delta is an append of its own, as far as the machine keeps up."""
    return Agent(name=name, model=BurstModel(pieces=600, size=8, pause_s=0.002), text_interval_s=0)


agent = talkative(os.environ.get("TEST_AGENT", "talkative"))
