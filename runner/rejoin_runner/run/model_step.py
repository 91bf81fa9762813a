"""One response of the model, as the message's own chunks.

Owns what a model's chunk becomes in this message: ids that no earlier step has, calls that fit their tools,
usage that adds up. A provider that fails ends the run with an error that everybody sees, or a delegated
agent's work with one that its caller sees.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from rejoin_protocol.errors import RejoinError
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.ids import CallId
from rejoin_protocol.log.record import Mark

from rejoin_runner.agent.custom_loop import CustomLoop, LoopError, MessageChunk, RunInput, run_loop
from rejoin_runner.decision import agent_stack
from rejoin_runner.models.model import Done, ModelChunk, ModelError, ModelRequest
from rejoin_runner.output.journal import EventTooLarge
from rejoin_runner.run import delegation, instrumentation, run_context
from rejoin_runner.run.attempt import DEADLINE, Attempt, ForeignCancellation, own_cancellation, worded
from rejoin_runner.run.call_output import LoggedCallOutput
from rejoin_runner.run.compaction import shortened
from rejoin_runner.run.model_files import stored
from rejoin_runner.tools.tool import ToolError


async def generate(attempt: Attempt) -> None:
    """Call the model, in a new step unless one is open."""
    if not attempt.state.step_open:
        await delegation.begin_step(attempt)
    limit_s = attempt.agent.step_timeout_s
    try:
        async with asyncio.timeout(limit_s):
            await own_cancellation(_respond(attempt))
    except TimeoutError:  # ours: `_respond` names the model's own
        await _failed(attempt, DEADLINE, f"The model took longer than {limit_s:g} seconds.")
    except ForeignCancellation:
        await _failed(attempt, "model_error", "The model gave up.")
    except ModelError as fault:
        attempt.log.warning("model_failed", error=worded(fault.detail))
        await _failed(attempt, "model_error", fault.detail)
    except LoopError as fault:
        await _failed(attempt, "agent_error", str(fault))
    except EventTooLarge as fault:
        attempt.log.warning("event_too_large", error=str(fault))
        await _failed(attempt, "too_large", str(fault))
    else:
        attempt.journal.mark(Mark.GENERATED)


async def _failed(attempt: Attempt, code: str, text: str) -> None:
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError  # what breaks while it is being stopped is no failure
    instrumentation.failed(attempt, code)
    await attempt.writer.flush()
    await delegation.fail(attempt, code, text)


async def _respond(attempt: Attempt) -> None:
    """Everything that the model says, all of it let out."""
    owner = delegation.owner(attempt)
    done: Done | None = None
    try:
        async with aclosing(await _source(attempt)) as stream:
            async for item in stream:
                if isinstance(item, Done):
                    done = item
                else:
                    own = await stored(_own(attempt, item), attempt.files, attempt.run)
                    await attempt.emit(own if owner is None else agent_stack.owned(own, owner))
                    if isinstance(own, chunks.ReasoningEnd):
                        await attempt.emit_detail("agent_reasoning", "Thought about it", partId=own.id)
    except TimeoutError:
        raise ModelError("The model did not answer in time.") from None
    await attempt.writer.flush()
    if done is not None:
        await attempt.record_usage(done.usage)
        await attempt.emit_detail(
            "agent_generate",
            "Answered",
            iteration=attempt.state.steps,
            finishReason=done.finish_reason,
            usage=done.usage.to_metadata(),
        )


async def _source(attempt: Attempt) -> AsyncGenerator[ModelChunk | MessageChunk | Done]:
    """The model, or the application's own loop."""
    request = delegation.request(attempt)
    request = msgspec.structs.replace(
        request,
        history=await shortened(attempt, request.history),
        instructions=await run_context.instructions(attempt),
        tenant=attempt.run.tenant,
        settings=attempt.agent.model_settings,
    )
    if attempt.agent.custom_loop is None:
        return attempt.model.stream(request)
    await attempt.journal.settle()  # that it was begun is in the log, for those that must not begin twice
    return _own_loop(attempt, attempt.agent.custom_loop, request)


async def _own_loop(
    attempt: Attempt, loop: CustomLoop, request: ModelRequest
) -> AsyncGenerator[MessageChunk | Done]:
    """What the application's loop says. What it raises is told by its type, but for `LoopError`."""
    run, voice = attempt.run, LoggedCallOutput(attempt)
    told = RunInput(
        run.id, run.session, attempt.agent.name, request.history, attempt.context, run.attempt, output=voice
    )
    try:
        async with aclosing(run_loop(loop, told)) as said:
            async for item in said:
                yield item
    except (RejoinError, LoopError, TimeoutError):
        raise
    except Exception as fault:
        attempt.log.exception("agent_failed")
        raise LoopError(f"The agent failed ({type(fault).__name__}).") from fault
    finally:
        voice.close()


def _own(attempt: Attempt, chunk: ModelChunk | MessageChunk) -> Chunk:
    """A model's chunk in this message: ids that no earlier step has, arguments that fit."""
    step = attempt.state.steps
    match chunk:
        case (
            chunks.ToolInputStart(provider_executed=True) | chunks.ToolInputAvailable(provider_executed=True)
        ):
            return chunk
        case (
            chunks.TextStart(id=id)
            | chunks.TextDelta(id=id)
            | chunks.TextEnd(id=id)
            | chunks.ReasoningStart(id=id)
            | chunks.ReasoningDelta(id=id)
            | chunks.ReasoningEnd(id=id)
        ):
            return msgspec.structs.replace(chunk, id=f"{step}.{id}")
        case chunks.ToolInputStart(tool_call_id=id) | chunks.ToolInputDelta(tool_call_id=id):
            return msgspec.structs.replace(chunk, tool_call_id=_call_id(attempt, id))
        case chunks.ToolInputAvailable(tool_call_id=id, tool_name=name, input=input):
            own = _call_id(attempt, id)
            fault = _misfit(attempt, name, input)
            if fault is None:
                return msgspec.structs.replace(chunk, tool_call_id=own)
            return chunks.ToolInputError(
                tool_call_id=own,
                tool_name=name,
                input=input,
                error_text=fault,
                provider_metadata=chunk.provider_metadata,
            )
        case _:
            return chunk


def _call_id(attempt: Attempt, id: str) -> str:
    return f"{attempt.state.steps}.{id}" if CallId(id) in attempt.state.past else id


def _misfit(attempt: Attempt, name: str, input: Any) -> str | None:
    tool = attempt.tools.get(name)
    if tool is None:
        return f"there is no tool {name}; there are: {', '.join(attempt.tools) or 'none'}"
    try:
        tool.check_arguments(input)
    except ToolError as fault:
        return str(fault)
    return None
