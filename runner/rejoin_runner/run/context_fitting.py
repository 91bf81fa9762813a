"""Fits a long conversation into the model's context window, with a summary of what is left out.

Owns when a summary is written and where it is stored: in the metadata of the message that needed it. A runner
that takes the run over, and the next turn, then send the model the same without another summary.
"""

from collections.abc import Sequence

import msgspec

from rejoin_adapters.process.exception_report import log_exception
from rejoin_protocol.errors import RejoinError
from rejoin_protocol.events.fold import MessageDict
from rejoin_runner.application_code import RunningCode, application_code
from rejoin_runner.models.compaction import Compaction, compact_history
from rejoin_runner.models.context_window import fit_history
from rejoin_runner.models.model import ModelError
from rejoin_runner.run.attempt import Attempt, clip_error

COMPACTION_METADATA_KEY = "compaction"


async def fit_context_window(attempt: Attempt, history: Sequence[MessageDict]) -> Sequence[MessageDict]:
    """The history that fits the agent's context window. If the model cannot write a summary, the messages
    that do not fit are left out without one.
    """
    agent = attempt.agent
    if agent.context_window is None:
        return history
    earlier = last_compaction([*attempt.claim.history, attempt.state.message])
    try:
        if not agent.summarize_history:
            fitting, left_out = fit_history(history, agent.context_window)
            if left_out:
                await _emit_compression(attempt, left_out, "left out")
            return fitting
        with application_code(RunningCode(f"the model of agent {agent.name}")):
            fitting, new = await compact_history(
                attempt.model, history, agent.context_window, earlier=earlier, tenant=attempt.run.tenant
            )
    except ModelError as fault:
        attempt.log.warning("history_summary_failed", error=clip_error(fault.detail))
        return fit_history(history, agent.context_window)[0]
    except RejoinError:
        raise
    except Exception as fault:  # noqa: BLE001 - the application's model
        log_exception(attempt.log, "history_summary_failed", fault)
        return fit_history(history, agent.context_window)[0]
    if new is not None:
        stored = {**msgspec.to_builtins(new), "usage": new.usage.to_metadata()}
        await attempt.record_usage(new.usage, **{COMPACTION_METADATA_KEY: stored})
        await _emit_compression(attempt, new.messages, "summed up")
    return fitting


def last_compaction(messages: Sequence[MessageDict]) -> Compaction | None:
    """The newest compaction in the messages' metadata. None if there is none, or if it cannot be parsed."""
    for message in reversed(messages):
        metadata = message.get("metadata")
        if (
            message["role"] == "assistant"
            and isinstance(metadata, dict)
            and COMPACTION_METADATA_KEY in metadata
        ):
            try:
                return msgspec.convert(metadata[COMPACTION_METADATA_KEY], Compaction)
            except msgspec.ValidationError:
                return None
    return None


async def _emit_compression(attempt: Attempt, messages: int, what: str) -> None:
    await attempt.emit_detail("compression", f"{messages} earlier messages are {what}", messageCount=messages)
