"""What operators see of the work: a span and a count for each attempt, step and tool, and none below that.

Owns which facts are told. Ids, names of agents and tools, numbers: never a text, an argument or a result.
"""

import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from rejoin_adapters.ports.run_queue import Delivery
from rejoin_adapters.service import tracing
from rejoin_adapters.service.tracing import SpanKind
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk

from rejoin_runner.decision.agent_stack import ToolCall
from rejoin_runner.run.attempt import Attempt


@contextmanager
def attempt(delivery: Delivery) -> Iterator[None]:
    """An attempt at a turn. A run's first turn belongs to the trace of the request that asked for it; a later
    one has a trace of its own, linked to what made it go on.
    """
    request, headers = delivery.request, delivery.headers
    with tracing.span(
        "run",
        kind=SpanKind.CONSUMER,
        within=headers if request.turn == 0 else None,
        after=headers if request.turn > 0 else None,
        run=request.run,
        turn=request.turn,
        agent=request.agent,
        delivered=delivery.delivery_count,
    ):
        yield


@contextmanager
def step(attempt: Attempt) -> Iterator[None]:
    """One call of a model, of whichever agent works."""
    agent = attempt.agent.name
    attempt.metrics.step(agent)
    began = time.monotonic()
    with tracing.span("step", agent=agent, step=attempt.state.steps):
        yield
    attempt.metrics.answered(agent, time.monotonic() - began)


def failed(attempt: Attempt, code: str) -> None:
    """The step ends with an error. `code` is a word of ours."""
    attempt.metrics.model_failed(attempt.agent.name, code)
    tracing.mark_failed(trace.get_current_span(), code)


async def tool(attempt: Attempt, call: ToolCall, work: Coroutine[Any, Any, Chunk]) -> Chunk:
    """One call of a tool: its result."""
    with tracing.span(f"tool {_name(attempt, call)}", tool=_name(attempt, call), call=call.id) as made:
        result = await work
        ok = isinstance(result, chunks.ToolOutputAvailable)
        if not ok:
            tracing.mark_failed(made, "error")
    told(attempt, call, "ok" if ok else "error")
    return result


def told(attempt: Attempt, call: ToolCall, outcome: str) -> None:
    """What became of a call: ok, error, denied or unknown."""
    attempt.metrics.called(attempt.agent.name, _name(attempt, call), outcome)


def _name(attempt: Attempt, call: ToolCall) -> str:
    """A name that a model invented is no label."""
    return call.tool if call.tool in attempt.tools else "(unknown)"
