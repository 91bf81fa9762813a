"""Spans and counters of a run: one for each attempt, model step and tool call, and none for single events.

Owns their attributes: ids, names of agents and tools, and numbers. A text, an argument or a result is never
one of them.
"""

import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from rejoin_adapters.ports.run_queue import Delivery
from rejoin_adapters.process import tracing
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_runner.next_action.agent_stack import ToolCall
from rejoin_runner.run.attempt import Attempt


@contextmanager
def attempt(delivery: Delivery) -> Iterator[None]:
    """The span of an attempt. In the run's first turn it belongs to the trace of the HTTP request. A later
    turn has its own trace, linked to the request that continued the run.
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
    """The span and the counters of one model call of the active agent."""
    agent = attempt.agent.name
    attempt.metrics.step_started(agent)
    started_s = time.monotonic()
    with tracing.span("step", agent=agent, step=attempt.state.steps):
        yield
    attempt.metrics.model_answered(agent, time.monotonic() - started_s)


def record_step_failure(attempt: Attempt, code: str) -> None:
    """Mark the present step as failed. `code` is one of the runner's own error codes."""
    attempt.metrics.model_failed(attempt.agent.name, code)
    tracing.mark_failed(trace.get_current_span(), code)


async def trace_call(attempt: Attempt, call: ToolCall, work: Coroutine[Any, Any, Chunk]) -> Chunk:
    """Await a tool call's result within its span, and count it."""
    tool = _tool_label(attempt, call)
    with tracing.span(f"tool {tool}", tool=tool, call=call.id) as span:
        result = await work
        succeeded = isinstance(result, chunks.ToolOutputAvailable)
        if not succeeded:
            tracing.mark_failed(span, "error")
    record_call(attempt, call, "ok" if succeeded else "error")
    return result


def record_call(attempt: Attempt, call: ToolCall, outcome: str) -> None:
    """Count a tool call's outcome: ok, error, denied or unknown."""
    attempt.metrics.tool_called(attempt.agent.name, _tool_label(attempt, call), outcome)


def _tool_label(attempt: Attempt, call: ToolCall) -> str:
    """The tool's name if the agent has it. A model may invent any name, and labels must be few."""
    return call.tool if call.tool in attempt.tools else "(unknown)"
