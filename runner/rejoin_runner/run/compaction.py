"""What of a long conversation the model is shown, and the summary that stands for the rest.

Owns when a summary is written and where it is kept: in the metadata of the answer that needed it, so that a
worker that takes the run over, and the next turn, show the model the same without asking again.
"""

from collections.abc import Sequence

import msgspec
from rejoin_protocol.events.fold import UIMessage

from rejoin_runner.models.compaction import Compaction, compact_history
from rejoin_runner.models.context_window import fit_history
from rejoin_runner.models.model import ModelError
from rejoin_runner.run.attempt import Attempt, worded

KEY = "compaction"


async def shortened(attempt: Attempt, history: Sequence[UIMessage]) -> Sequence[UIMessage]:
    """The history as the agent's window has it. A summary that cannot be written is done without."""
    agent = attempt.agent
    if agent.context_window is None:
        return history
    earlier = known([*attempt.claim.history, attempt.state.message])
    try:
        if not agent.summarize_history:
            shown, left_out = fit_history(history, agent.context_window)
            if left_out:
                await _say(attempt, left_out, "left out")
            return shown
        shown, new = await compact_history(
            attempt.model, history, agent.context_window, earlier=earlier, tenant=attempt.run.tenant
        )
    except ModelError as fault:
        attempt.log.warning("history_summary_failed", error=worded(fault.detail))
        return fit_history(history, agent.context_window)[0]
    if new is not None:
        await attempt.record_usage(new.usage, **{KEY: msgspec.to_builtins(new)})
        await _say(attempt, new.messages, "summed up")
    return shown


def known(messages: Sequence[UIMessage]) -> Compaction | None:
    """The last summary that was written in this conversation."""
    for message in reversed(messages):
        metadata = message.get("metadata")
        if message["role"] == "assistant" and isinstance(metadata, dict) and KEY in metadata:
            try:
                return msgspec.convert(metadata[KEY], Compaction)
            except msgspec.ValidationError:
                return None
    return None


async def _say(attempt: Attempt, messages: int, how: str) -> None:
    await attempt.emit_detail("compression", f"{messages} earlier messages are {how}", messageCount=messages)
