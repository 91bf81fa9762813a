"""`agent`: the decorator that makes an async generator function an agent."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from rejoin_runner.agent.agent import TEXT_INTERVAL_S, Agent
from rejoin_runner.agent.custom_loop import CrashPolicy, CustomLoop, LoopOutput, RunInput
from rejoin_runner.agent.status_settings import StatusUpdates
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
    """Make an async generator function an agent: a custom loop in place of a model and tools.

    The function gets a `RunInput`. What it yields becomes the answer: `str` is text, other parts are chunks
    of the message, and a `Usage` is added to the run's usage. The run has the same log, resume and interrupt
    as any run; Rejoin's tools and approvals are not available in it.

    Args:
        name: The agent's name, as in `Agent`.
        on_crash: What happens to a run whose worker crashed: `restart` voids the output and calls the
            function again, `fail` ends the run with an error.
        description: What the agent does, for clients that list the agents.
        context: The type of the application's own context, as in `Agent`.
        timeout_s: Seconds for one attempt at a run. Default: no limit.
        text_interval_s: Seconds for which text deltas are merged. 0: every delta is an event.
        status_updates: When the progress is summarized. Default: never.
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
