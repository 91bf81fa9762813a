"""Interrupts a run whose answer the client has stopped reading, when the client sends its next message.

`stop()` of `useChat` only closes the connection, which does not end a run: the page may come back. The next
message shows whether the client has given the answer up. If it sends the beginning of the answer as part of
the conversation, and a new message after it, the answer's run is interrupted, so that the new message is
answered at once. If the client does not know the answer, for example in another tab, its message waits.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence

from rejoin_adapters.store_types import Run
from rejoin_gateway.core.message_input import ClientMessage, MessageOptions
from rejoin_gateway.core.session import Session
from rejoin_protocol.errors import Busy
from rejoin_protocol.ids import MessageId
from rejoin_protocol.lifecycle import BUSY

_UNDECIDED = frozenset({"approval-requested", "approval-responded"})


async def interrupt_unread_answer(
    session: Session,
    options: MessageOptions,
    message: str,
    earlier: Sequence[ClientMessage],
    *,
    always: bool = False,
    undecided: Collection[MessageId] = (),
) -> None:
    """Interrupt the active run if the client has given its answer up. `earlier`: the client's messages before
    the new message `message`. `always`: the client never sends while it reads. `undecided`: the answers of
    which its copy has a call without a result, if the messages do not show it. Does nothing if the client
    says itself what to do with a busy session.
    """
    if options.names_busy_policy or not (earlier or always):
        return
    run = await session.current_run()
    # A request whose response was lost is sent again: its own run is not given up.
    if run is None or run.state not in BUSY or run.user_message == message:
        return
    # Before its first suspension a run has calls that only take long.
    if run.turn and run.answer in undecided:
        return
    if always or _is_left(run, earlier):
        await session.interrupt(run.id)


def _is_left(run: Run, earlier: Sequence[ClientMessage]) -> bool:
    known = next((message for message in reversed(earlier) if message.id == run.answer), None)
    if known is None:  # then the client has seen nothing of the answer: it has left if nothing of it exists
        return run.attempt == 0 and any(message.id == run.user_message for message in earlier)
    # A copy with an undecided call is from before the suspension: the client does not read what came after.
    return not any(part.get("state") in _UNDECIDED for part in known.parts)


async def replace_messages[T](
    session: Session, options: MessageOptions, admit: Callable[[], Awaitable[T]]
) -> T:
    """Admit a request that replaces messages. The active runs that are in its way are interrupted, unless the
    client says itself what to do with a busy session; open questions in messages that stay are left open.
    """
    try:
        return await admit()
    except Busy:
        if options.names_busy_policy:
            raise
    for summary in await session.runs():
        if summary.run.state in BUSY and not summary.run.interrupted:
            await session.interrupt(summary.run.id)
    return await admit()
