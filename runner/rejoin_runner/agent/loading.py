"""The agents that a MODULE:ATTR path names."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rejoin_protocol.errors import Invalid

from rejoin_runner.agent.agent import Agent


def parse_agents(value: Any) -> list[Agent]:
    """One agent, or several in a list. Raises `Invalid` for anything else and for two of one name."""
    agents = [value] if isinstance(value, Agent) else value
    if not isinstance(agents, Sequence) or not agents or not all(isinstance(one, Agent) for one in agents):
        raise Invalid("expected an Agent or a list of Agents")
    names = [agent.name for agent in agents]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Invalid(f"two agents have the name {twice[0]}")
    return list(agents)


def load_agents(path: str) -> list[Agent]:
    """The agents that `MODULE:ATTR` names. Raises `Invalid` in words for the one who typed it."""
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise Invalid(f"expected MODULE:ATTR, got {path!r}")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        module = importlib.import_module(module_name)
    except ImportError as fault:
        raise Invalid(f"cannot import {module_name}: {fault}") from fault
    try:
        value = getattr(module, attribute)
    except AttributeError:
        raise Invalid(f"{module_name} has no {attribute}") from None
    return parse_agents(value)
