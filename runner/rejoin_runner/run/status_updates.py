"""Summaries of long work for the person who waits, written by a model while the work goes on.

Never in the way: a summary is asked for beside the run, one at a time, dropped when the run has moved on to
its end, and its failure is a line in the log.
"""

import asyncio

import msgspec
import structlog
from rejoin_protocol.events.chunks import Data
from rejoin_protocol.events.fold import UIMessage, is_tool, tool_name

from rejoin_runner.agent.status_updates import StatusUpdates, Summary, SummaryWriter
from rejoin_runner.models.model import Model, build_question, collect_answer
from rejoin_runner.run.attempt import Attempt

TICK_S = 0.1
TRANSCRIPT_CHARS = 6_000
LABEL_CHARS_MAX = 200
INSTRUCTIONS = (
    "You watch an assistant at work and tell the person who waits what it is doing. Write one line of at "
    "most twelve words, in the person's language, in the present tense. No greeting, no quotes, no promise. "
    "If there is more to know, add up to three short lines below it."
)

log = structlog.get_logger("rejoin.updates")


async def run_status_updates(attempt: Attempt, updates: StatusUpdates, model: Model) -> None:
    """Beside a run, until cancelled."""
    write = updates.write or _writer(attempt, model)
    clock = asyncio.get_running_loop().time
    told, told_s = attempt.state.index, clock()
    while True:
        await asyncio.sleep(TICK_S)
        news, waited_s = attempt.state.index - told, clock() - told_s
        if not attempt.state.step_open or not _due(updates, news, waited_s):
            continue
        try:
            await _tell(attempt, write)
        except Exception as fault:  # noqa: BLE001 - the run does not depend on it
            log.warning("status_update_failed", error=type(fault).__name__)
        told, told_s = attempt.state.index, clock()


def _due(updates: StatusUpdates, news: int, waited_s: float) -> bool:
    if not news:
        return False
    often = updates.every_events is not None and news >= updates.every_events
    return often or (updates.every_s is not None and waited_s >= updates.every_s)


async def _tell(attempt: Attempt, write: SummaryWriter) -> None:
    summary = await write(transcript(attempt.state.message))
    state = attempt.state
    over = not state.step_open or state.aborted or state.error is not None
    if over or not summary.label.strip():
        return
    said = {"label": summary.label.strip()[:LABEL_CHARS_MAX]}
    if summary.details:
        said["details"] = summary.details
    await attempt.writer.write_between_texts(Data(type="data-summary", data=said))


def _writer(attempt: Attempt, model: Model) -> SummaryWriter:
    async def write(text: str) -> Summary:
        said, usage = await collect_answer(
            model, build_question(INSTRUCTIONS, text, tenant=attempt.run.tenant)
        )
        attempt.metrics.used(attempt.agent.name, usage)
        label, _, details = said.strip().partition("\n")
        return Summary(label, details.strip() or None)

    return write


def transcript(message: UIMessage) -> str:
    """The end of what an assistant has said and done, as text."""
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
