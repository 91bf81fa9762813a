"""An agent of a model that is asked over HTTP, for a runner of its own process."""

import os

from rejoin_runner.agent.agent import Agent

agent = Agent(name=os.environ.get("TEST_AGENT", "asks"), model="openai:test-model")
