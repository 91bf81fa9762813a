"""Messages that a user sends to a run while it works: from the store into the run's log.

The store has them before the run's client is told that they are accepted. The log says which of them the run
has read, so a runner that takes over neither loses nor repeats one. `decide` says when.
"""

from collections.abc import Sequence

from rejoin_protocol.errors import Unavailable
from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.events.steering import to_chunk
from rejoin_protocol.ids import MessageId
from rejoin_runner.run.attempt import Attempt


async def find(attempt: Attempt) -> Sequence[MessageDict]:
    """The messages that steer the run and fit into its answer, oldest first. Empty while the database is
    away: they stay stored, for a later step or as the next turns. Raises `Fenced`.
    """
    run = attempt.run
    try:
        found = await attempt.store.find_steering(run.id, run.attempt, sorted(attempt.state.steering))
    except Unavailable as fault:
        attempt.log.warning("steering_not_found", error=str(fault))
        return ()
    return fitting(attempt, found)


async def emit(attempt: Attempt, messages: Sequence[MessageDict]) -> None:
    """Emit the messages, and wait until the log has them: then the store may be told."""
    for message in messages:
        await attempt.emit(to_chunk(message))
    await attempt.writer.flush()
    await attempt.journal.wait_until_stored()


def fitting(attempt: Attempt, messages: Sequence[MessageDict]) -> Sequence[MessageDict]:
    """The first messages, as far as the answer has room for them."""
    size_bytes = 0
    for number, message in enumerate(messages):
        if MessageId(message["id"]) not in attempt.state.steering:
            size_bytes += len(chunks.encode(to_chunk(message)))
        if attempt.journal.is_full(size_bytes):
            return messages[:number]
    return messages
