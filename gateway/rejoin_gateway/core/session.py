"""The core: what every route family says, once. `backend.agent("a").session(id)` is a conversation.

Owns the order of a request: know the agent, store, publish, stream. It holds no state of its own, so any
gateway can answer for any session, and it speaks no HTTP.
"""

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec
import structlog
from rejoin_adapters.ports.agent_registry import AgentRegistry
from rejoin_adapters.ports.artifacts import Artifacts
from rejoin_adapters.ports.run_control import RunControl
from rejoin_adapters.ports.run_log import RunLog
from rejoin_adapters.ports.run_queue import RunQueue
from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.ports.session_store import SessionStore
from rejoin_adapters.records import (
    Admission,
    Admitted,
    Decision,
    History,
    Owner,
    Regenerate,
    Run,
    Submit,
    WhenBusy,
)
from rejoin_adapters.records import UserMessage as StoredTurn
from rejoin_protocol import ids
from rejoin_protocol.errors import Invalid, NotFound, Unavailable
from rejoin_protocol.events.fold import UIMessage
from rejoin_protocol.file_formats import FILES_MAX
from rejoin_protocol.ids import AgentName, MessageId, RunId, SessionId
from rejoin_protocol.lifecycle import BUSY, State
from rejoin_protocol.log.record import View
from rejoin_protocol.security.sealing import Sealer

from rejoin_gateway.core.agent_context import ContextInput, SealedContext, seal_context
from rejoin_gateway.core.attachments import IMPORTED_MAX, Attachments, Part, ReceivedFile
from rejoin_gateway.core.message_input import ImportedTurn
from rejoin_gateway.metrics import GatewayMetrics
from rejoin_gateway.streaming.positions import FromStart, FromTurn, Position
from rejoin_gateway.streaming.replay import Replay
from rejoin_gateway.streaming.resume_point import CursorOfAnotherRun, find_resume_point

log = structlog.get_logger("rejoin.sessions")

_canonical = msgspec.json.Encoder(order="deterministic").encode


class Backend(msgspec.Struct, frozen=True):
    """The ports, a clock and randomness; everything else follows from them."""

    store: RunStore
    runs: RunLog
    requests: RunQueue
    control: RunControl
    agents: AgentRegistry
    threads: SessionStore
    artifacts: Artifacts
    now: Callable[[], datetime]
    randomness: Callable[[int], bytes]
    attachments: Attachments | None = None
    sealer: Sealer | None = None
    """For the contexts that agents want; a gateway without keys serves those that want none."""
    metrics: GatewayMetrics = msgspec.field(default_factory=GatewayMetrics)

    def agent(self, name: AgentName, owner: Owner) -> "Sessions":
        """One agent's sessions."""
        return Sessions(self, owner, name)

    async def context(self, session: "Session") -> SealedContext:
        """What of a request's context is to be stored. Nothing has been stored before. Raises `NotFound`,
        `Invalid`.
        """
        entry = await self.agents.find(session.agent)
        if entry is None:
            raise NotFound(f"there is no agent {session.agent!r}")
        if entry.context_schema is None:
            return SealedContext()
        remembered = await self.store.session_context(session.owner, session.id)
        return seal_context(
            session.brought, entry.context_schema, self.sealer, session.owner.tenant, session.id, remembered
        )

    async def admit(
        self,
        session: "Session",
        ask: Submit | Regenerate,
        when_busy: WhenBusy,
        key: str | None,
        context: SealedContext,
    ) -> Admitted:
        """Store, then publish: what a caller is told is accepted is in the database, whatever follows."""
        time_ms = int(self.now().timestamp() * 1000)
        admission = Admission(
            session.owner,
            session.id,
            session.agent,
            ids.new_run_id(time_ms, self.randomness(ids.RANDOM_BYTES)),
            ids.new_message_id(time_ms, self.randomness(ids.RANDOM_BYTES)),
            ask,
            when_busy=when_busy,
            key=key,
            context=context.sealed,
            remember=context.remember,
        )
        admitted = await self.store.admit(admission)
        log.info("run_admitted", session=session.id, run=admitted.run.id, created=admitted.created)
        if admitted.interrupted is not None:
            await self.stop(admitted.interrupted)
        await self.publish(admitted.run)
        return admitted

    async def stop(self, run: Run) -> None:
        """Have an interrupted run ended: by the runner that holds it, or by the next one that claims it."""
        log.info("run_interrupted", session=run.session, run=run.id, state=run.state)
        await self.publish(run)
        if run.state is State.RUNNING:
            try:
                await self.control.interrupt(run.id)
            except Unavailable as fault:
                log.warning(
                    "interrupt_delivery_failed", run=run.id, error=str(fault)
                )  # its next claim reads the wish

    async def publish(self, run: Run) -> None:
        """Ask the runners for a run that is queued and whose turn it is; asking twice is asking once."""
        if run.state is State.QUEUED and run.ready:
            await self.requests.publish(run.request)

    async def replay(self, run: Run, position: Position, view: View, *, until: int | None) -> Replay:
        """A run's stream. Raises `Invalid` or `Gone` for a position that is not in its log."""
        start = await find_resume_point(self.runs, run, position, view)
        return Replay(self.store, self.runs, run, start, view, until, self.metrics)


class Sessions(msgspec.Struct, frozen=True):
    """One agent's sessions."""

    backend: Backend
    owner: Owner
    agent: AgentName

    def session(self, id: SessionId, brought: ContextInput = ContextInput()) -> "Session":  # noqa: B008 - it is frozen
        """One of them, whether it exists or not. `brought` is where its agent's context is looked for."""
        return Session(self.backend, self.owner, self.agent, id, brought)


class Session(msgspec.Struct, frozen=True):
    """A conversation with an agent."""

    backend: Backend
    owner: Owner
    agent: AgentName
    id: SessionId
    brought: ContextInput = ContextInput()

    async def send(
        self,
        message: UIMessage,
        view: View,
        *,
        edit: bool = False,
        imports: Sequence[ImportedTurn] = (),
        when_busy: WhenBusy = WhenBusy.ENQUEUE,
        key: str | None = None,
        pointer: str = "",
        remote: bool = True,
    ) -> Replay:
        """Store a user's message and stream its answer; sent again, it attaches to the run it made.

        Its files are stored first, `remote` ones too; what is wrong with one is said of the part under
        `pointer`, the message's place in the body.

        `edit` lets a known id have new content: what it replaces goes, and all behind it. `imports` are the
        turns before it, taken only by a new session. `key` makes the request one with any other of the same
        key. Raises `NotFound`, `Conflict`, `Invalid`, `Limited`, `Unavailable`.
        """
        context = await self.backend.context(self)
        turns = [
            ImportedTurn(message, [f"{pointer}/parts/{n}" for n in range(len(message["parts"]))]),
            *imports,
        ]
        sent = await self._read(turns[:1], FILES_MAX)
        said = _with_files(message, [file.said for file in sent])
        digest = hashlib.sha256(_canonical(said["parts"])).digest()
        stored = [turn.message for turn in turns]
        if any(map(_files, turns)):
            made = await self._repeated(MessageId(message["id"]), digest, key)
            if made is not None:
                return await self.backend.replay(made, FromStart(), view, until=made.turn)
            stored = await self._stored(turns, sent, remote=remote)
        ask = Submit(StoredTurn(stored[0], digest), edit=edit, imports=stored[1:])
        return await self._answer(ask, view, when_busy, key, context)

    async def _read(self, turns: Sequence[ImportedTurn], files_max: int) -> list[ReceivedFile]:
        """The files of some turns, as they were sent."""
        files = [file for turn in turns for file in _files(turn)]
        if not files:
            return []
        if self.backend.attachments is None:
            raise Invalid("files are not taken here", files[0][0])
        return await self.backend.attachments.read(files, self.owner, files_max=files_max)

    async def _repeated(self, message: MessageId, digest: bytes, key: str | None) -> Run | None:
        """The run that this very request has made: nothing of it is fetched or stored again."""
        made = await self.backend.store.find_duplicate(self.owner, self.id, self.agent, message, digest, key)
        if made is not None:
            log.info("run_admitted", session=self.id, run=made.id, created=False)
            await self.backend.publish(made)
        return made

    async def _stored(
        self, turns: Sequence[ImportedTurn], sent: Sequence[ReceivedFile], *, remote: bool
    ) -> list[UIMessage]:
        """The messages with their files stored, if the tenant may have another run. `sent` are the first
        one's; the others are taken only by a session that is new, and without their files by any other.
        """
        await self.backend.store.check_limits(self.owner.tenant)
        if await self.backend.store.current_run(self.owner, self.id) is None:
            sent = [*sent, *await self._read(turns[1:], IMPORTED_MAX)]
        else:
            turns = [turns[0], *filter(_says, map(_without_files, turns[1:]))]
        if self.backend.attachments is None or not sent:
            return [turn.message for turn in turns]
        parts = iter(await self.backend.attachments.stored(sent, self.owner, remote=remote))
        return [_with_files(turn.message, [next(parts) for _ in _files(turn)]) for turn in turns]

    async def regenerate(
        self,
        target: MessageId | None,
        view: View,
        *,
        when_busy: WhenBusy = WhenBusy.ENQUEUE,
        key: str | None = None,
    ) -> Replay:
        """Stream another answer in the place of `target`, or of the last one. Raises as `send`."""
        context = await self.backend.context(self)
        return await self._answer(Regenerate(target), view, when_busy, key, context)

    async def _answer(
        self,
        ask: Submit | Regenerate,
        view: View,
        when_busy: WhenBusy,
        key: str | None,
        context: SealedContext,
    ) -> Replay:
        run = (await self.backend.admit(self, ask, when_busy, key, context)).run
        return await self.backend.replay(run, FromStart(), view, until=run.turn)

    async def _waits(self, run: Run) -> bool:
        """Whether some question of the run is still open."""
        if run.state is State.SUSPENDED:
            return True
        pending = await self.backend.store.pending_approvals(self.owner, self.id)
        return any(ids.is_approval_of(approval.request.id, run.id) for approval in pending)

    async def interrupt(self, run: RunId | None = None) -> bool:
        """Stop a run of the session, or the one it has: queued, running or suspended; whether it could be.

        The wish is stored first: a runner that cannot be told now reads it when it claims the run. Raises
        `NotFound`, `Unavailable`.
        """
        found = await self.backend.store.interrupt(self.owner, self.id, run)
        if found.run is not None and found.interrupted:
            await self.backend.stop(found.run)
        return found.interrupted

    async def approve(self, decisions: Sequence[Decision], view: View) -> Replay | None:
        """Store decisions and stream what follows; None while the run waits for others.

        Raises `NotFound`, `Conflict`, `Invalid`, `Unavailable`.
        """
        decided = await self.backend.store.decide(self.owner, self.id, decisions)
        log.info("approval_decided", session=self.id, run=decided.run.id, state=decided.run.state)
        await self.backend.publish(decided.run)
        if decided.run.turn < decided.turn and await self._waits(decided.run):
            return None
        until = max(decided.turn, decided.run.turn)
        return await self.backend.replay(decided.run, FromTurn(decided.turn), view, until=until)

    async def stream(self, position: Position, view: View, *, follow: bool = False) -> Replay | None:
        """The session's run from a position; None if that is nowhere and nothing is running.

        A cursor finds its own run, even if a newer one has begun. Raises `NotFound`, `Invalid`, `Gone`.
        """
        run = await self._run()
        if isinstance(position, FromStart) and (
            run is None or not (run.state in BUSY or (follow and run.state is State.SUSPENDED))
        ):
            return None
        if run is None:
            raise NotFound(f"there is no session {self.id!r}")
        try:
            return await self._replay(run, position, view, follow=follow)
        except CursorOfAnotherRun as fault:
            other = await self.backend.store.find_run(self.owner, fault.owner)
            if other is None or other.session != self.id or other.id == run.id:
                raise
            return await self._replay(other, position, view, follow=follow)

    async def _replay(self, run: Run, position: Position, view: View, *, follow: bool) -> Replay:
        return await self.backend.replay(run, position, view, until=None if follow else run.turn)

    async def delete(self) -> Sequence[RunId] | None:
        """Delete the session and everything that belongs to it; None if there is none. Whoever executes a run
        of it is told, and finds that it is nobody's.
        """
        runs = await self.backend.threads.delete(self.owner, self.id)
        log.info("session_deleted", session=self.id, runs=len(runs or ()))
        for run in runs or ():
            try:
                await self.backend.control.interrupt(run)
            except Unavailable as fault:
                log.warning("interrupt_delivery_failed", run=run, error=str(fault))
        return runs

    async def check_agent(self) -> None:
        """Raises `NotFound` if the session is another agent's."""
        current = await self.backend.store.current_run(self.owner, self.id)
        if current is not None and current.agent != self.agent:
            raise NotFound(f"there is no session {self.id!r} with agent {self.agent!r}")

    async def history(self) -> History:
        """The stored messages. Raises `NotFound`."""
        history = await self.backend.store.history(self.owner, self.id)
        if history is None or history.agent != self.agent:
            raise NotFound(f"there is no session {self.id!r} with agent {self.agent!r}")
        return history

    async def _run(self) -> Run | None:
        """The current run; or the run that the id names, because a transport may ask by that."""
        named = None
        if self.id.startswith(ids.RUN_PREFIX):
            named = await self.backend.store.find_run(self.owner, RunId(self.id))
        return named or await self.backend.store.current_run(self.owner, self.id)


def _files(turn: ImportedTurn) -> list[tuple[str, Part]]:
    """Its parts that are files, each with its pointer."""
    parts = zip(turn.places, turn.message["parts"], strict=True)
    return [(place, part) for place, part in parts if part["type"] == "file"]


def _with_files(message: UIMessage, files: Sequence[Part]) -> UIMessage:
    """The message with these in the places of its files."""
    given = iter(files)
    return message | {"parts": [next(given) if part["type"] == "file" else part for part in message["parts"]]}


def _says(turn: ImportedTurn) -> bool:
    return bool(turn.message["parts"])


def _without_files(turn: ImportedTurn) -> ImportedTurn:
    parts = [part for part in turn.message["parts"] if part["type"] != "file"]
    return ImportedTurn(turn.message | {"parts": parts}, [""] * len(parts))
