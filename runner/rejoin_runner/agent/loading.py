"""Finds the agents that a runner serves, from a path `MODULE:ATTR`."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rejoin_protocol.errors import Invalid
from rejoin_runner.agent.agent import Agent


def load_agents(path: str) -> list[Agent]:
    """Import the module and return the agents in the attribute, as `parse_agents` does.

    The current directory is added to the import path. Raises `Invalid` if the path has another form, if the
    module cannot be imported, or if the attribute is missing.
    """
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


def parse_agents(value: Any) -> list[Agent]:
    """The agents in `value`, which is one agent or a list of agents.

    Raises `Invalid` for any other value, and if two agents have the same name.
    """
    agents = [value] if isinstance(value, Agent) else value
    if not isinstance(agents, Sequence) or not agents or not all(isinstance(item, Agent) for item in agents):
        raise Invalid("expected an Agent or a list of Agents")
    names = [agent.name for agent in agents]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise Invalid(f"two agents have the name {duplicates[0]}")
    return list(agents)
