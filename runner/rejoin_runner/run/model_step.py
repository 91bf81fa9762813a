"""One model step: the response of a model, or of an application's own loop, as chunks of the run's message.

Owns how a model's chunk is adapted to the message: ids that no earlier step uses, tool calls whose input is
checked, token counts that add up. A failed response fails the run with an error that every client sees; a
delegated agent's failed response fails its call instead.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Literal

import msgspec
from msgspec import UNSET

from rejoin_adapters.process.exception_report import log_exception
from rejoin_protocol.errors import Invalid, RejoinError
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk, FinishReason
from rejoin_protocol.events.fold import STEP_START
from rejoin_protocol.events.own_metadata import CLIENT_KEY, add_own
from rejoin_protocol.events.typed_output import (
    STATE_KEY,
    OutputState,
    fault_chunk,
    output_chunk,
    output_state,
)
from rejoin_protocol.ids import CallId
from rejoin_protocol.json_input import mend_value
from rejoin_protocol.limits import ANSWER_BYTES_MAX, TOOL_INPUT_BYTES_MAX
from rejoin_protocol.log.record import Mark
from rejoin_runner.agent.custom_loop import CustomLoop, LoopError, MessageChunk, RunInput, run_loop
from rejoin_runner.application_code import ApplicationGaveUp, RunningCode, application_code
from rejoin_runner.models.call_recording import recording
from rejoin_runner.models.model import Done, ModelChunk, ModelError, ModelRequest, Usage, UsageMeter
from rejoin_runner.next_action import agent_stack
from rejoin_runner.next_action.run_state import EARLY_ENDS, early_end_of
from rejoin_runner.output.bounded_work import WorkAbandoned
from rejoin_runner.output.journal import EventTooLarge
from rejoin_runner.output.typed_answer import OutputText, UnfitAnswer
from rejoin_runner.run import delegation, instrumentation, model_calls, run_inputs
from rejoin_runner.run.attempt import DEADLINE, Attempt, clip_error
from rejoin_runner.run.call_output import LoggedCallOutput
from rejoin_runner.run.context_fitting import fit_context_window
from rejoin_runner.run.model_files import store_generated_file
from rejoin_runner.tools.argument_fault import describe_fault
from rejoin_runner.tools.client_tool import ClientTool
from rejoin_runner.tools.tool_error import ToolError

INCIDENT_CHARS = 12
OUTPUT_INTERVALS = 5
"""A growing output is shown once in so many intervals of text: each time as a whole."""
NAME_CHARS_SHOWN = 100
"""How many characters of the name of an unknown tool appear in the error."""


async def generate(attempt: Attempt) -> None:
    """Call the model, in a new step unless one is open, and emit its response.

    A complete response ends with the mark `GENERATED`. A model that fails fails the step and raises nothing,
    whatever it raises itself. Raises `Fenced` and `Unavailable`.
    """
    if not attempt.state.step_open:
        await delegation.begin_step(attempt)
    timeout_s = attempt.agent.step_timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            with application_code(_code_of(attempt)), recording(model_calls.reporter(attempt)):
                await _respond(attempt)
    except TimeoutError:  # the step's own: `_respond` converts a model's TimeoutError
        await _fail(attempt, DEADLINE, f"The model took longer than {timeout_s:g} seconds.")
    except ModelError as fault:
        attempt.log.warning("model_failed", error=clip_error(fault.detail))
        await _fail(attempt, "model_error", fault.detail)
    except LoopError as fault:
        await _fail(attempt, "agent_error", str(fault))
    except EventTooLarge as fault:
        attempt.log.warning("event_too_large", error=str(fault))
        await _fail(attempt, "too_large", str(fault))
    except Invalid as fault:
        incident = _log_incident(attempt, "model_output_invalid", fault)
        await _fail(attempt, "model_error", f"The answer cannot be taken: {fault.detail} ({incident}).")
    except (RejoinError, WorkAbandoned):
        raise
    except Exception as fault:  # noqa: BLE001 - the application's: the same answer would fail again
        incident = _log_incident(attempt, "model_crashed", fault)
        who = "model" if attempt.agent.custom_loop is None else "agent"
        await _fail(attempt, f"{who}_error", f"The {who} failed ({incident}).")
    else:
        attempt.journal.mark(Mark.GENERATED)


def _log_incident(attempt: Attempt, event: str, fault: Exception) -> str:
    """Log an exception of the application. The type of it and the incident's id, by which an operator finds
    the line, are what users may see.
    """
    cause = fault.__cause__ if isinstance(fault, ApplicationGaveUp) and fault.__cause__ else fault
    place = f"{attempt.run.id}/{attempt.run.attempt}/{attempt.state.index}"
    incident = hashlib.sha256(place.encode()).hexdigest()[:INCIDENT_CHARS]
    log_exception(attempt.log, event, fault, incident=incident)
    return f"{type(cause).__name__}, incident {incident}"


def _code_of(attempt: Attempt) -> RunningCode:
    agent = attempt.agent
    return RunningCode(f"the {'model' if agent.custom_loop is None else 'loop'} of agent {agent.name}")


async def _fail(attempt: Attempt, code: str, error: str) -> None:
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        # An interrupt, a drain or the run's deadline stops this step. What breaks because of that is no
        # failure of the model.
        raise asyncio.CancelledError
    instrumentation.record_step_failure(attempt, code)
    await attempt.writer.flush()
    await attempt.record_cut_off()
    await delegation.fail_step(attempt, code, error)


async def _respond(attempt: Attempt) -> None:
    """Emit the whole response, and flush it: a mark must come after every event that it is about."""
    output = _expected_output(attempt)
    if output is not None and output_state(attempt.state.message) == "done":
        # The whole output was taken back, or a steering message asks for another: the metadata outlive it.
        await attempt.emit(chunks.MessageMetadata(message_metadata={STATE_KEY: "partial"}))
    done: Done | None = None
    try:
        async with aclosing(await _open_stream(attempt)) as stream:
            async for item in stream:
                if isinstance(item, Done):
                    done = item
                elif output is None:
                    await _emit(attempt, item)
                else:
                    await _emit_beside_output(attempt, item, output)
    except TimeoutError:
        raise ModelError("The model did not answer in time.") from None
    await attempt.writer.flush()
    if done is not None:
        metadata = _finish_metadata(attempt, done.finish_reason)
        if output is not None:
            metadata |= await _end_output(attempt, output, done.finish_reason)
        await attempt.record_usage(*_usages(attempt, done), **metadata)
        await attempt.emit_detail(
            "agent_generate",
            "Answered",
            iteration=attempt.state.steps,
            finishReason=done.finish_reason,
            usage=done.usage.to_metadata(),
            parts=_last_parts(attempt, "text"),
            generationType="text_generation",
        )


def _usages(attempt: Attempt, done: Done) -> Sequence[Usage]:
    """What the response has used, by model where the models have named themselves."""
    if done.parts:
        return done.parts
    return [done.usage if attempt.meter is None else attempt.meter.name_model(done.usage)]


async def _emit(attempt: Attempt, item: ModelChunk | MessageChunk) -> None:
    origin = delegation.active_origin(attempt)
    chunk = await store_generated_file(_adapt_chunk(attempt, item), attempt.files, attempt.run)
    await attempt.emit(chunk if origin is None else agent_stack.with_origin(chunk, origin))
    if isinstance(chunk, chunks.ReasoningEnd):
        thought = _last_parts(attempt, "reasoning")[-1:]
        await attempt.emit_detail("agent_reasoning", "Thought about it", partId=chunk.id, parts=thought)


def _expected_output(attempt: Attempt) -> OutputText | None:
    """The reader of a typed answer; None if the answer is text. A delegated agent's answer goes to its caller
    as a whole: see `delegation.complete_call`.
    """
    if attempt.output is None or attempt.state.frames.top.call is not None:
        return None
    return OutputText(attempt.head.text_interval_s * OUTPUT_INTERVALS)


async def _emit_beside_output(attempt: Attempt, item: ModelChunk | MessageChunk, output: OutputText) -> None:
    """Emit the item, or the output so far if the item is a piece of it and the time has come."""
    for passed in output.add(item):
        await _emit(attempt, passed)
    value = output.next_value(asyncio.get_running_loop().time())
    if value is not UNSET and not attempt.journal.is_full(ANSWER_BYTES_MAX // 2):
        await attempt.emit(output_chunk(value))


async def _end_output(attempt: Attempt, output: OutputText, reason: FinishReason) -> dict[str, str]:
    """Emit the whole output if the response has one that fits, or what is wrong with it. Returns the output's
    state for the message's metadata.

    The response is no output if it calls tools. One that broke off is not sent back to the model: the next
    one would end at the same limit.
    """
    state: OutputState = "partial"
    if not attempt.state.calls and reason not in EARLY_ENDS:
        state = await _check_output(attempt, output)
    return {STATE_KEY: state}


async def _check_output(attempt: Attempt, output: OutputText) -> OutputState:
    try:
        value = output.whole_value()
        error = None if attempt.output is None else attempt.output.find_fault(value)
    except UnfitAnswer as fault:
        error = str(fault)
    if error is None:
        await attempt.emit(output_chunk(value))
        return "done"
    await attempt.emit(fault_chunk(output.fault(error)))
    return "invalid"


def _finish_metadata(attempt: Attempt, reason: FinishReason) -> dict[str, str]:
    """Says in the message that an answer ended early: a runner that takes over reads it there.

    An answer of a delegated agent is no answer of the message. A whole answer after an early end takes it
    back.
    """
    if attempt.state.frames.top.call is not None:
        return {}
    if reason in EARLY_ENDS or early_end_of(attempt.state.message) is not None:
        return {"finishReason": reason}
    return {}


def _last_parts(attempt: Attempt, kind: Literal["text", "reasoning"]) -> list[dict[str, str]]:
    """The texts, or the reasoning, of the active agent's step so far."""
    call = attempt.state.frames.top.call
    parts = agent_stack.frame_view(attempt.state.message, None if call is None else call.id)["parts"]
    begin = max((number for number, part in enumerate(parts) if part["type"] == STEP_START), default=0)
    return [{"type": "text", "content": part["text"]} for part in parts[begin:] if part["type"] == kind]


async def _open_stream(attempt: Attempt) -> AsyncGenerator[ModelChunk | MessageChunk | Done]:
    """The response of the model, or of the application's own loop if the agent has one."""
    request = delegation.model_request(attempt)
    attempt.meter = UsageMeter()
    request = msgspec.structs.replace(
        request,
        meter=attempt.meter,
        history=await fit_context_window(attempt, request.history),
        instructions=await run_inputs.build_instructions(attempt),
        tenant=attempt.run.tenant,
        settings=attempt.model_settings,
    )
    if attempt.agent.custom_loop is None:
        return attempt.model.stream(request)
    # A loop that must not start twice is known by its open step, so the step must be in the log first.
    await attempt.journal.wait_until_stored()
    return _stream_custom_loop(attempt, attempt.agent.custom_loop, request)


async def _stream_custom_loop(
    attempt: Attempt, loop: CustomLoop, request: ModelRequest
) -> AsyncGenerator[MessageChunk | Done]:
    """The output of an application's loop. Raises `LoopError` for what the loop raises; the error names only
    the exception's type, because its text may hold secrets.
    """
    run, output = attempt.run, LoggedCallOutput(attempt)
    messages = request.history if request.step == 0 else [*request.history, request.answer]
    run_input = RunInput(
        run.id, run.session, attempt.agent.name, messages, attempt.context, run.attempt, output=output
    )
    try:
        async with aclosing(run_loop(loop, run_input)) as stream:
            async for item in stream:
                yield item
    except (RejoinError, LoopError, TimeoutError):
        raise
    except Exception as fault:
        incident = _log_incident(attempt, "agent_failed", fault)
        raise LoopError(f"The agent failed ({incident}).") from fault
    finally:
        output.close()


def _adapt_chunk(attempt: Attempt, chunk: ModelChunk | MessageChunk) -> Chunk:
    """A model's chunk with ids that no earlier step uses. A tool call whose input does not fit its tool
    becomes a `ToolInputError`; one that the client answers says so.
    """
    step = attempt.state.steps
    match chunk:
        case (
            chunks.ToolInputStart(provider_executed=True) | chunks.ToolInputAvailable(provider_executed=True)
        ):
            return chunk  # not one of our tools; its id is the provider's
        case chunks.SourceUrl(url=url) if not url.lower().startswith(("http://", "https://")):
            # Clients make a link of it: `javascript:` would run in their pages.
            title = chunk.title or "source"
            return chunks.SourceDocument(chunk.source_id, "text/plain", title)
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
            return msgspec.structs.replace(chunk, tool_call_id=_unique_call_id(attempt, id))
        case chunks.ToolInputAvailable(tool_call_id=id, tool_name=name):
            call_id, input = _unique_call_id(attempt, id), mend_value(chunk.input)
            error = _input_error(attempt, name, input)
            if error is None:
                metadata = chunk.provider_metadata
                if isinstance(attempt.tools.get(name), ClientTool):
                    metadata = add_own(metadata, CLIENT_KEY, value=True)
                return msgspec.structs.replace(
                    chunk, tool_call_id=call_id, input=input, provider_metadata=metadata
                )
            return chunks.ToolInputError(
                tool_call_id=call_id,
                tool_name=name,
                input=input,
                error_text=error,
                provider_metadata=chunk.provider_metadata,
            )
        case _:
            return chunk


def _unique_call_id(attempt: Attempt, id: str) -> str:
    """The provider's id, unless an earlier step used it: some providers number calls in each response."""
    return f"{attempt.state.steps}.{id}" if CallId(id) in attempt.state.earlier_calls else id


def _input_error(attempt: Attempt, name: str, input: Any) -> str | None:
    size = len(msgspec.json.encode(input))
    if size > TOOL_INPUT_BYTES_MAX:
        return f"a tool's input has at most {TOOL_INPUT_BYTES_MAX} bytes as JSON, not {size}"
    tool = attempt.tools.get(name)
    if tool is None:
        known = ", ".join(attempt.tools) or "none"
        return f"unknown tool {name[:NAME_CHARS_SHOWN]!r}; there are: {known}"
    if not isinstance(input, dict):
        return describe_fault(input)
    try:
        tool.check_arguments(input)
    except ToolError as fault:
        return str(fault)
    return None
