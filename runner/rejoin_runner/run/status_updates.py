"""Status updates: short summaries of a long run for its user, written by a model while the run goes on.

They never delay the run. One summary is requested at a time, beside the run; a summary that comes after the
step has ended is dropped; a failure is logged and nothing else.
"""

import asyncio

import msgspec
import structlog

from rejoin_protocol.events.chunks import Data
from rejoin_protocol.events.fold import MessageDict, is_tool, tool_name
from rejoin_runner.agent.status_settings import StatusUpdates, Summary, SummaryWriter
from rejoin_runner.application_code import RunningCode, application_code
from rejoin_runner.models.model import Model, build_question, collect_answer
from rejoin_runner.run.attempt import Attempt
from rejoin_runner.tools.tool_context import build_status_update

TICK_S = 0.1
TRANSCRIPT_CHARS = 6_000
LABEL_CHARS_MAX = 200
STATUS_INSTRUCTIONS = (
    "You watch an assistant at work and tell the person who waits what it is doing. Write one line of at "
    "most twelve words, in the person's language, in the present tense. No greeting, no quotes, no promise. "
    "If there is more to know, add up to three short lines below it."
)

log = structlog.get_logger("rejoin.status_updates")


async def run_status_updates(attempt: Attempt, updates: StatusUpdates, model: Model) -> None:
    """Emit a summary whenever one is due, until cancelled. `model` writes it unless `updates` has `write`."""
    write = updates.write or _model_writer(attempt, model)
    clock = asyncio.get_running_loop().time
    summarized_index, summarized_s = attempt.state.index, clock()
    while True:
        await asyncio.sleep(TICK_S)
        new_events, waited_s = attempt.state.index - summarized_index, clock() - summarized_s
        if not attempt.state.step_open or not _is_due(updates, new_events, waited_s):
            continue
        try:
            with application_code(RunningCode("the status updates")):
                await _emit_summary(attempt, write)
        except Exception as fault:  # noqa: BLE001 - the run does not depend on it
            log.warning("status_update_failed", error=type(fault).__name__)
        summarized_index, summarized_s = attempt.state.index, clock()


def _is_due(updates: StatusUpdates, new_events: int, waited_s: float) -> bool:
    if not new_events:
        return False
    enough_events = updates.every_events is not None and new_events >= updates.every_events
    return enough_events or (updates.every_s is not None and waited_s >= updates.every_s)


async def _emit_summary(attempt: Attempt, write: SummaryWriter) -> None:
    summary = await write(build_transcript(attempt.state.message))
    state = attempt.state
    too_late = not state.step_open or state.aborted or state.error is not None
    if too_late or not summary.label.strip():
        return
    data = {"label": summary.label.strip()[:LABEL_CHARS_MAX]}
    if summary.details:
        data["details"] = summary.details
    await attempt.writer.write_between_texts(Data(type="data-summary", data=data))
    update = build_status_update(data["label"], attempt.agent.name, data.get("details"))
    audience = attempt.run.operation_set.audience_of("status_update")
    await attempt.writer.write_between_texts(update, audience)


def _model_writer(attempt: Attempt, model: Model) -> SummaryWriter:
    async def write(text: str) -> Summary:
        answer, usage = await collect_answer(
            model, build_question(STATUS_INSTRUCTIONS, text, tenant=attempt.run.tenant)
        )
        await attempt.count_usage(usage)
        label, _, details = answer.strip().partition("\n")
        return Summary(label, details.strip() or None)

    return write


def build_transcript(message: MessageDict) -> str:
    """The last `TRANSCRIPT_CHARS` characters of what the assistant wrote and did, one line for each part."""
    lines = []
    for part in message["parts"]:
        if part["type"] == "text":
            lines.append(f"It says: {part['text']}")
        elif part["type"] == "reasoning":
            lines.append(f"It thinks: {part['text']}")
        elif is_tool(part):
            input = msgspec.json.encode(part.get("input")).decode()
            lines.append(f"It uses {tool_name(part)} with {input[:500]}: {part['state']}")
    return "\n".join(lines)[-TRANSCRIPT_CHARS:]
