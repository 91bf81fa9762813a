"""The demo agent with a model of a provider, for a runner process whose traces a test collects."""

import os

import msgspec

from rejoin_runner.demo import build_demo_agent

agent = msgspec.structs.replace(
    build_demo_agent("openai:test-model"), name=os.environ.get("TEST_AGENT", "demo")
)
