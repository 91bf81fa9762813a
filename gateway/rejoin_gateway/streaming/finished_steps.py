"""The finished steps of an answer, as its log has them: the message before one of its steps began."""

from rejoin_adapters.ports.run_log import RunLog
from rejoin_protocol.errors import Conflict, Gone, Invalid
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import StartStep
from rejoin_protocol.events.fold import Fold, MessageDict, is_tool
from rejoin_protocol.events.unfold import unfold
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.record import Mark, split_events


async def read_message_before(run_log: RunLog, run: RunId, step: int) -> MessageDict:
    """The message as it was when step `step` of the run began; the first step is 1.

    Raises `Invalid` if the log has no such step, `Gone` if the log or its beginning has expired, and
    `Unavailable`.
    """
    fold, index, steps = Fold(), 0, 0
    after, more = 0, True
    while more:
        page = await run_log.read(run, after=after)
        for record in page.records:
            if record.head.mark is Mark.RESTORED:  # the log begins again
                fold, index, steps = Fold(), 0, 0
            if record.head.index != index:
                raise Gone(f"the log of run {run} has expired")
            for event in split_events(record):
                chunk = chunks.decode(event)
                steps += isinstance(chunk, StartStep)
                if steps == step:
                    return fold.message
                fold.apply(chunk)
            index, after = record.end, record.seq
        more = page.more
    if after == 0:
        raise Gone(f"the log of run {run} has expired, or the run has not begun")
    raise Invalid(f"run {run} has {steps} steps", "/step")


def to_kept_steps(message: MessageDict) -> MessageDict | None:
    """The steps with which another answer can begin; None if there are none. Without the tokens of these
    steps, which their own run has paid.

    Raises `Conflict` for steps that cannot be taken over.
    """
    parts = message["parts"]
    if not parts:
        return None
    # A call without a result is one whose agent works on it: it goes on. The decision about it is its run's.
    open_calls = [part for part in parts if is_tool(part) and not part["state"].startswith("output-")]
    if any("approval" in part for part in open_calls):
        raise Conflict("the step is inside a call that somebody has approved: replay another one")
    metadata = {name: value for name, value in message.get("metadata", {}).items() if name != "usage"}
    kept = {**message, "metadata": metadata}
    if not metadata:
        del kept["metadata"]
    folded = Fold()
    for chunk in unfold(kept):
        folded.apply(chunk)
    if folded.message != kept:
        raise Conflict("the steps before it cannot be written to another log: replay an earlier one")
    return kept
