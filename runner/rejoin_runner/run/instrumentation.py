"""Spans and counters of a run: one for each attempt, model step and tool call, and none for single events.

Owns their attributes: ids, names of agents and tools, and numbers, by OpenTelemetry's GenAI conventions where
they have words for it. A text, an argument or a result is one of them only if the operator asks for content.
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
from rejoin_runner.models.genai_content import clip_json
from rejoin_runner.next_action.agent_stack import ToolCall
from rejoin_runner.run.attempt import Attempt


@contextmanager
def attempt(delivery: Delivery) -> Iterator[None]:
    """The span of an attempt. Every attempt at every turn belongs to the trace of the HTTP request that began
    the run; that of a later turn is linked to the request that continued it.
    """
    request = delivery.request
    with tracing.span(
        "run",
        kind=SpanKind.CONSUMER,
        within=delivery.headers,
        run=request.run,
        turn=request.turn,
        agent=request.agent,
        delivered=delivery.delivery_count,
    ):
        yield


@contextmanager
def invocation(attempt: Attempt, ordinary: tuple[type[Exception], ...]) -> Iterator[None]:
    """The span `invoke_agent` of what an attempt does for a claimed run. `ordinary`: exceptions by which an
    attempt ends without a failure.
    """
    run = attempt.run
    shared: dict[str, tracing.Value] = {
        "gen_ai.conversation.id": run.session,
        "session.id": run.session,  # as Langfuse and Phoenix call it
        "gen_ai.agent.name": run.agent,
        **tracing.user_attributes(run.tenant, run.user),
    }
    attributes: dict[str, tracing.Value] = {"gen_ai.operation.name": "invoke_agent"}
    if attempt.head.description:
        attributes["gen_ai.agent.description"] = attempt.head.description
    with tracing.span(
        f"invoke_agent {run.agent}",
        attributes=attributes,
        shared=shared,
        expected=ordinary,
        run=run.id,
        turn=run.turn,
        attempt=run.attempt,
    ) as span:
        yield
        if attempt.state.error is not None:
            tracing.mark_failed(span, "run_failed")


@contextmanager
def step(attempt: Attempt) -> Iterator[None]:
    """The span and the counters of one model step of the active agent. Its model calls are spans within."""
    agent = attempt.agent.name
    attempt.metrics.step_started(agent)
    started_s = time.monotonic()
    shared = {"gen_ai.agent.name": agent}
    with tracing.span("step", shared=shared, agent=agent, step=attempt.state.steps):
        yield
    attempt.metrics.model_answered(agent, time.monotonic() - started_s)


def record_step_failure(attempt: Attempt, code: str) -> None:
    """Mark the present step as failed. `code` is one of the runner's own error codes."""
    attempt.metrics.model_failed(attempt.agent.name, code)
    tracing.mark_failed(trace.get_current_span(), code)


async def trace_call(attempt: Attempt, call: ToolCall, work: Coroutine[Any, Any, Chunk]) -> Chunk:
    """Await a tool call's result within its span, and count it."""
    tool = _tool_label(attempt, call)
    names = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": tool,
        "gen_ai.tool.call.id": call.id,
        "gen_ai.tool.type": "function",
        "gen_ai.agent.name": attempt.agent.name,
    }
    with tracing.span(f"execute_tool {tool}", attributes=names) as span:
        shows_content = tracing.shows_content() and span.is_recording()
        if shows_content:
            span.set_attribute("gen_ai.tool.call.arguments", clip_json(call.input))
        result = await work
        succeeded = isinstance(result, chunks.ToolOutputAvailable)
        if shows_content and isinstance(result, chunks.ToolOutputAvailable):
            span.set_attribute("gen_ai.tool.call.result", clip_json(result.output))
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
