"""The demo agent under the name that the environment gives, for a runner process that a test kills."""

import os

import msgspec

from rejoin_runner.demo import build_demo_agent

agent = msgspec.structs.replace(build_demo_agent(), name=os.environ["TEST_AGENT"])
