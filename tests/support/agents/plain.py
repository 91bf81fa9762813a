"""The demo agent for a runner process, under a name that the environment gives."""

import os

import msgspec

from rejoin_runner.demo import build_demo_agent

agent = msgspec.structs.replace(build_demo_agent(), name=os.environ["TEST_AGENT"])
