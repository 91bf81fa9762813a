"""The decorator that makes an async generator function an agent."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from rejoin_runner.agent.agent import TEXT_INTERVAL_S, Agent
from rejoin_runner.agent.custom_loop import CrashPolicy, CustomLoop, LoopOutput, RunInput
from rejoin_runner.agent.status_updates import StatusUpdates
from rejoin_runner.models.missing_model import MissingModel


def agent(
    *,
    name: str,
    on_crash: CrashPolicy = "restart",
    description: str = "",
    context: type[msgspec.Struct] | None = None,
    timeout_s: float | None = None,
    text_interval_s: float = TEXT_INTERVAL_S,
    status_updates: StatusUpdates | None = None,
) -> Callable[[Callable[[RunInput[Any]], AsyncIterator[LoopOutput]]], Agent]:
    """Make an async generator function an agent: what it yields is its answer, text as `str`, anything else
    as chunks. It has the same log, resume and interrupt as any agent; tools and approvals of ours it has not.

    `on_crash`: whether a run whose worker died is begun again (what was said is void) or fails.
    """

    def make(function: Callable[[RunInput[Any]], AsyncIterator[LoopOutput]]) -> Agent:
        return Agent(
            name=name,
            model=MissingModel("This agent has no model."),
            custom_loop=CustomLoop(function, on_crash),
            description=description,
            context=context,
            timeout_s=timeout_s,
            text_interval_s=text_interval_s,
            status_updates=status_updates,
        )

    return make
