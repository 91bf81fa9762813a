"""Shows the answers that a waiting run was given and that its log does not have yet, in responses and the
inspector.

The log gets them all together when the last one is stored. The events here are the ones that the log will
have then, so a client receives them twice; the second time changes nothing. They have no id and are not
counted: positions are those of the log.

A client that does not know AI SDK 7 has no event for a decision, and gets the outputs of client tools alone.
"""

from collections.abc import Sequence

from rejoin_adapters.answer_events import answer_events
from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.store_types import AskedCall, Run
from rejoin_gateway.streaming.answered_parts import find_waiting
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.ids import ApprovalId
from rejoin_protocol.log.record import View


class GivenAnswers:
    """The answers of one response. Ask for them while the run waits."""

    def __init__(self, store: RunStore, run: Run, view: View) -> None:
        self._store = store
        self._run = run
        self._view = view
        self._shown: frozenset[ApprovalId] = frozenset()

    async def frames(self) -> bytes:
        """The frames of the answers that are new since the last call; none while the database is away."""
        try:
            return b"".join(b"data: %b\n\n" % event for event in await self.events())
        except Unavailable:
            return b""

    async def events(self) -> list[bytes]:
        """The events of the answers that are new since the last call, as JSON. Raises `Unavailable`."""
        calls = await self._new_calls()
        found = await self._find_message() if calls else None
        if found is None:  # the run goes on: its log tells the rest
            return []
        self._shown |= {call.approval.request.id for call in calls}
        return _encode_answers(found, calls)

    async def _new_calls(self) -> list[AskedCall]:
        return [
            call
            for call in await self._store.answered_calls(self._run.owner, self._run.session)
            if call.run.id == self._run.id
            and call.approval.request.id not in self._shown
            and (self._view.v7 or call.approval.request.kind == "tool-output")
        ]

    async def _find_message(self) -> MessageDict | None:
        found = await self._store.find_message(self._run.owner, self._run.session, self._run.answer)
        return None if found is None else found.message


def _encode_answers(message: MessageDict, calls: Sequence[AskedCall]) -> list[bytes]:
    return [
        chunks.encode(event)
        for call in calls
        if (at := find_waiting(message, call)) is not None
        for event in answer_events(call.approval, message["parts"][at])
    ]
