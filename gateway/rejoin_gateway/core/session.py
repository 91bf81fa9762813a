"""A session: send, approve, interrupt, resume, read, fork, delete. Every API does these things through here.

`Session` is named by its id alone and need not exist. `AgentSession` also names the agent a message needs.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import structlog
from msgspec import UNSET, UnsetType

from rejoin_adapters.ports.run_log import LogPage
from rejoin_adapters.store_types import (
    Approval,
    Decided,
    Decision,
    EarlierMessages,
    Fork,
    ForkOrigin,
    History,
    MessagePage,
    MessageWithNext,
    Owner,
    Regenerate,
    Run,
    RunSummary,
    SessionSummary,
    Submit,
    UserMessage,
    WhenBusy,
)
from rejoin_adapters.usage_types import SessionUsage
from rejoin_gateway.core import message_input
from rejoin_gateway.core.agent_context import ContextInput, SealedContext, seal_context
from rejoin_gateway.core.attachments import ReceivedFile, file_parts, with_files, without_files
from rejoin_gateway.core.backend import Backend, Steered, steered_run
from rejoin_gateway.core.message_input import ImportedTurn
from rejoin_gateway.streaming.positions import AfterCursor, FromStart, FromTurn, Position, in_turn
from rejoin_gateway.streaming.replay import Replay
from rejoin_gateway.streaming.resume_point import CursorOfAnotherRun
from rejoin_protocol import ids
from rejoin_protocol.errors import Invalid, NotFound
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.ids import AgentName, CallId, MessageId, RunId, SessionId
from rejoin_protocol.lifecycle import BUSY, TERMINAL, State
from rejoin_protocol.log.record import OperationSet, View
from rejoin_protocol.request_options import RequestOptions
from rejoin_protocol.request_tools import RequestTool

log = structlog.get_logger("rejoin.sessions")

_encode_canonically = msgspec.json.Encoder(order="deterministic").encode


class Session(msgspec.Struct, frozen=True):
    """An owner's session, named by its id. Methods of a session that does not exist raise `NotFound`, unless
    they say otherwise. All methods raise `Unavailable` if the database or the broker cannot be reached.
    """

    backend: Backend
    owner: Owner
    id: SessionId

    # ------------------------------------------------------------------------------------------ runs

    async def stream(
        self, position: Position, view: View, *, follow: bool = False, of: RunId | None = None
    ) -> Replay | None:
        """The stream of the session's run from a position. `follow`: also behind the next suspension. `of`:
        another run of the session than the current one.

        None if the position is the start and no run is active, and as `resume`. A cursor is looked up in its
        own run, even if a newer run has begun. Raises `NotFound`, `Invalid`, `Gone`.
        """
        named, turn = ids.parse_turn_id(self.id if of is None else of)
        run = await self._run_to_stream(named) if of is None else await self._own_run(named)
        if isinstance(position, FromStart) and (
            run is None or not (run.state in BUSY or (follow and run.state is State.SUSPENDED))
        ):
            return None
        if run is None:
            raise NotFound(f"there is no session {self.id!r}")
        own = in_turn(position, turn) if run.id == named else position
        try:
            return await self.resume(run, own, view, follow=follow)
        except CursorOfAnotherRun as fault:
            other = await self.backend.store.find_run(self.owner, fault.cursor_run)
            if other is None or other.session != self.id or other.id == run.id:
                raise
            return await self.resume(other, position, view, follow=follow)

    async def _run_to_stream(self, named: RunId) -> Run | None:
        """The current run, or the run whose id is used as the session's id: some clients resume by run id."""
        is_run = named.startswith(ids.RUN_PREFIX)
        run = await self.backend.store.find_run(self.owner, named) if is_run else None
        return run or await self.current_run()

    async def resume(
        self, run: Run, position: Position, view: View, *, follow: bool = False
    ) -> Replay | None:
        """Like `replay`; None if the position is the cursor of the last event of a run that has ended.

        A browser's EventSource connects again after every end of a response. It stops only at a response
        without a stream.
        """
        replay = await self.replay(run, position, view, follow=follow)
        is_over = isinstance(position, AfterCursor) and await replay.has_nothing_left()
        return None if is_over else replay

    async def replay(
        self,
        run: Run,
        position: Position,
        view: View,
        *,
        follow: bool = False,
        until: int | None = None,
    ) -> Replay:
        """The stream of one of the session's runs, up to the end of turn `until`, or else of its current
        turn.

        `follow`: up to the end of the run. Raises `Invalid` or `Gone` for a position that is not in its log.
        """
        turn = run.turn if until is None else until
        return await self.backend.replay(run, position, view, until=None if follow else turn)

    async def read_log(self, run: Run, *, after: int, records_max: int) -> LogPage:
        """A page of a run's stored records behind sequence `after`."""
        return await self.backend.log.read(run.id, after=after, records_max=records_max)

    async def current_run(self) -> Run | None:
        """The run whose turn it is, or else the newest one; None if there is none."""
        return await self.backend.store.current_run(self.owner, self.id)

    async def find_run(self, run: RunId) -> Run:
        """A run as it is stored now. Raises `NotFound`."""
        found = await self.backend.store.find_run(self.owner, run)
        if found is None:
            raise NotFound(f"there is no run {run!r}")
        return found

    async def _own_run(self, id: RunId) -> Run:
        run = await self.find_run(id)
        if run.session != self.id:
            raise NotFound(f"there is no run {id!r} in session {self.id!r}")
        return run

    async def runs(self) -> Sequence[RunSummary]:
        """The session's runs, newest first."""
        return await self.backend.sessions.runs(self.owner, self.id)

    async def interrupt(
        self,
        run: RunId | None = None,
        *,
        message: MessageId | None = None,
        seen: Mapping[str, Any] | None = None,
    ) -> bool:
        """Interrupt a run of the session, or the one that answers a message; without a name the active run
        and all suspended ones. `seen`: the part of the answer that the user had seen last; what is behind it
        is cut from the history.

        Returns whether there was one to interrupt. The interrupt is stored before the runner is told, so it
        holds even if the runner cannot be reached. An interrupt that overtakes its message is kept for a few
        seconds; without a message's id it raises `NotFound` all the same.
        """
        message_input.check_seen(seen)
        interrupted = await self.backend.store.interrupt(self.owner, self.id, run, message=message, seen=seen)
        if not interrupted.known and message is None:
            raise NotFound(f"there is no session {self.id!r}")
        if interrupted.run is not None and interrupted.interrupted:
            await self.backend.stop(interrupted.run)
        return interrupted.interrupted

    # -------------------------------------------------------------------------------------- approvals

    async def approve(self, decisions: Sequence[Decision], view: View) -> Replay | None:
        """Store decisions and stream what follows; None while the run waits for other decisions.

        Raises `NotFound`, `Conflict`, `Invalid`.
        """
        decided = await self.decide(decisions)
        if decided.run.turn < decided.turn and await self._waits_for_decisions(decided.run):
            return None
        until = max(decided.turn, decided.run.turn)
        return await self.backend.replay(decided.run, FromTurn(decided.turn), view, until=until)

    async def decide(self, decisions: Sequence[Decision]) -> Decided:
        """Store decisions about one run. Raises as `approve`."""
        decided = await self.backend.store.decide(self.owner, self.id, decisions)
        log.info("approval_decided", session=self.id, run=decided.run.id, state=decided.run.state)
        await self.backend.publish(decided.run)
        return decided

    async def _waits_for_decisions(self, run: Run) -> bool:
        return run.state is State.SUSPENDED or bool(await self._pending_requests(run.id))

    async def pending_approvals(self, run: RunId | None = None) -> list[Approval]:
        """The open approvals of the session, or of one of its runs, oldest first. Empty if there is no
        session.
        """
        return [one for one in await self._pending_requests(run) if one.request.kind == "approval"]

    async def pending_tool_outputs(self, run: RunId | None = None) -> list[Approval]:
        """The calls of client tools that wait for an output, as `pending_approvals`."""
        return [one for one in await self._pending_requests(run) if one.request.kind == "tool-output"]

    async def _pending_requests(self, run: RunId | None) -> list[Approval]:
        pending = await self.backend.store.pending_approvals(self.owner, self.id)
        return [
            approval for approval in pending if run is None or ids.is_approval_of(approval.request.id, run)
        ]

    async def find_approval(self, run: RunId, call: CallId) -> Approval | None:
        """The newest approval, decided or not, of a tool call in a run."""
        return await self.backend.store.find_approval(self.owner, run, call)

    async def find_call(self, call: CallId) -> Approval | None:
        """The newest open approval of a call in the session, or else the newest decided one: a reply whose
        response was lost may be sent again.
        """
        found = await self.backend.store.find_calls(self.owner, call, self.id)
        return found[0].approval if found else None

    # --------------------------------------------------------------------------------------- messages

    async def messages(self, *, limit: int, before: str | None, skip: int = 0) -> MessagePage:
        """A page of the newest messages, or of those before a page token, without the newest `skip`. Raises
        `Invalid` for the token.
        """
        page = await self.backend.sessions.messages(
            self.owner, self.id, limit=limit, before=before, skip=skip
        )
        return msgspec.structs.replace(page, messages=await self._shown(page.messages))

    async def message(self, id: MessageId) -> MessageWithNext | None:
        """One message and the id of the message behind it; None if there is no such message."""
        found = await self.backend.store.find_message(self.owner, self.id, id)
        if found is None:
            return None
        [shown] = await self._shown([found.message])
        return msgspec.structs.replace(found, message=shown)

    async def require_message(self, id: MessageId) -> None:
        """Raises `NotFound` if the session exists and has no such message, which a client wants to edit."""
        if (
            await self.message(id) is None
            and await self.backend.sessions.get(self.owner, self.id) is not None
        ):
            raise NotFound(f"session {self.id!r} has no message {id[:64]!r} to edit")

    async def messages_before(
        self, id: MessageId, *, after: MessageId | None, limit: int, oldest_first: bool
    ) -> EarlierMessages | None:
        """A page of the messages before message `id`, from behind `after` on. None if either is missing."""
        page = await self.backend.store.messages_before(
            self.owner, self.id, id, after=after, limit=limit, oldest_first=oldest_first
        )
        if page is None:
            return None
        return EarlierMessages(await self._shown(page.messages), page.more)

    async def _shown(self, messages: Sequence[MessageDict]) -> Sequence[MessageDict]:
        return await self.backend.shown_messages(messages, self.owner, self.id)

    # ------------------------------------------------------------------------------ the whole session

    async def summary(self) -> SessionSummary:
        """Agent, title, times and counts."""
        summary = await self.backend.sessions.get(self.owner, self.id)
        if summary is None:
            raise NotFound(f"there is no session {self.id!r}")
        return summary

    async def usage(self) -> SessionUsage:
        """The tokens of all runs together."""
        return await self.backend.sessions.usage(self.owner, self.id)

    async def fork(self, before: MessageId, into: SessionId) -> SessionSummary:
        """Copy the messages strictly before one message into a new session. Raises as `SessionStore.fork`."""
        return await self.backend.sessions.fork(self.owner, self.id, before, into)

    async def forks(self) -> Sequence[Fork]:
        """The sessions that were forked from this one, and the forks of those."""
        return await self.backend.sessions.forks(self.owner, [self.id])

    async def origin(self) -> ForkOrigin | None:
        """Where this session was forked from, if it was and that session still exists."""
        return await self.backend.sessions.origin(self.owner, self.id)

    async def update(
        self,
        *,
        title: str | UnsetType | None = UNSET,
        metadata: Any = UNSET,
        last_message: MessageId | UnsetType = UNSET,
    ) -> SessionSummary:
        """Change title and metadata; with `last_message`, delete the messages behind that one. Raises
        `Invalid`, and as `SessionStore.rewind`.
        """
        await self.summary()
        # Before the rewind: it cannot be undone if the title is refused.
        message_input.check_title(title)
        message_input.check_metadata(metadata)
        if last_message is not UNSET:
            await self.backend.sessions.rewind(self.owner, self.id, last_message)
        return await self.backend.sessions.update(self.owner, self.id, title=title, metadata=metadata)

    async def delete(self) -> Sequence[RunId] | None:
        """Delete the session with its messages, runs and files. Returns its runs; None if it did not exist.

        Runners that execute one of the runs are told to stop; a runner that cannot be reached learns it from
        the database.
        """
        runs = await self.backend.sessions.delete(self.owner, self.id)
        log.info("session_deleted", session=self.id, runs=len(runs or ()))
        for run in runs or ():
            await self.backend.signal_interrupt(run)
        return runs

    def now(self) -> datetime:
        """The gateway's clock."""
        return self.backend.now()


class AgentSession(Session, frozen=True):
    """A session with one agent. `context` is where the agent's request context is read from. For new runs:
    `operation_set`, the operations of their streams; `tools` and `options`, what their request brings.
    """

    agent: AgentName
    context: ContextInput = ContextInput()
    operation_set: OperationSet = OperationSet.NONE
    tools: Sequence[RequestTool] = ()
    options: RequestOptions = RequestOptions()

    async def check_agent(self) -> None:
        """Raises `NotFound` if the session exists and belongs to another agent."""
        current = await self.current_run()
        if current is not None and current.agent != self.agent:
            raise self._not_found()

    async def summary(self) -> SessionSummary:
        """Like `Session.summary`. Raises `NotFound` also if the session belongs to another agent."""
        summary = await self.backend.sessions.get(self.owner, self.id)
        if summary is None or summary.agent != self.agent:
            raise self._not_found()
        return summary

    async def history(self) -> History:
        """All stored messages. Raises `NotFound` also if the session belongs to another agent."""
        page = await self.history_page()
        messages = list(page.messages)
        while page.next is not None:
            page = await self.history_page(page.next)
            messages += page.messages
        return msgspec.structs.replace(page, messages=messages)

    async def history_page(self, after: int = -1) -> History:
        """A page of the stored messages, oldest first, from behind position `after`. Raises as `history`."""
        history = await self.backend.store.history(self.owner, self.id, after=after)
        if history is None or history.agent != self.agent:
            raise self._not_found()
        shown, waiting = await self._shown(history.messages), await self._shown(history.steering)
        return msgspec.structs.replace(history, messages=shown, steering=waiting)

    def _not_found(self) -> NotFound:
        return NotFound(f"there is no session {self.id!r} with agent {self.agent!r}")

    async def send(
        self,
        message: MessageDict,
        view: View,
        *,
        edit: bool = False,
        imports: Sequence[ImportedTurn] = (),
        when_busy: WhenBusy = WhenBusy.ENQUEUE,
        key: str | None = None,
        pointer: str = "",
        fetch_urls: bool = True,
        follow: bool = False,
        seen: Mapping[str, Any] | None = None,
    ) -> Replay | Steered:
        """Store a user's message and stream its answer. The same message sent again attaches to its run.

        `Steered` for a message that steers a run (`when_busy`), also if it is sent again: that run's stream
        has it.

        `edit`: a known message id may have new content; it replaces that message and deletes all behind it.
        `imports`: earlier turns, all of which a new session stores. `key`: requests with the same key are one
        request. `pointer`: the message's place in the body, for errors. `fetch_urls`: files at http(s) URLs
        are fetched and stored. `follow`: the stream stays open at approvals. `seen`: as for `interrupt`.

        Raises `NotFound`, `Conflict`, `Invalid`, `Limited`.
        """
        context = await self._seal_context()
        if when_busy is WhenBusy.STEER:
            message_input.check_steering(message, pointer)
        if fault := message_input.imports_fault(imports):  # a known session takes no import, so any number
            if await self.backend.sessions.get(self.owner, self.id) is None:
                raise Invalid(fault, pointer.rpartition("/")[0])
            imports = ()
        places = [f"{pointer}/parts/{number}" for number in range(len(message["parts"]))]
        turns = [ImportedTurn(message, places), *message_input.with_own_ids(imports, message["id"])]
        files = await self._read_files(turns[0])
        # The digest covers what the client sent, not what a URL returned: a repeated request is the same one.
        sent = with_files(message, [file.digest_part for file in files])
        digest = hashlib.sha256(_encode_canonically(sent["parts"])).digest()
        messages = [turn.message for turn in turns]
        if any(map(file_parts, turns)):
            duplicate = await self._find_duplicate(MessageId(message["id"]), digest, key)
            if duplicate is not None:
                return await self._answer(duplicate, message, view, follow=follow)
            messages = await self._store_files(turns, files, fetch_urls=fetch_urls)
        submit = Submit(UserMessage(messages[0], digest), edit=edit, imports=messages[1:])
        if seen is not None:
            await self._interrupt_current(seen, MessageId(message["id"]))
        run = await self._admit(submit, when_busy, key, context)
        return await self._answer(run, message, view, follow=follow)

    async def _answer(self, run: Run, message: MessageDict, view: View, *, follow: bool) -> Replay | Steered:
        id = MessageId(message["id"])
        if (steered := steered_run(id, run)) is not None:
            return Steered(await self.find_run(steered), id)
        return await self.replay(run, FromStart(), view, follow=follow)

    async def regenerate(
        self,
        target: MessageId | None,
        view: View,
        *,
        when_busy: WhenBusy = WhenBusy.ENQUEUE,
        key: str | None = None,
    ) -> Replay:
        """Stream a new answer in the place of message `target`, or of the last answer. Raises as `send`."""
        context = await self._seal_context()
        run = await self._admit(Regenerate(target), when_busy, key, context)
        return await self.replay(run, FromStart(), view)

    async def _interrupt_current(self, seen: Mapping[str, Any], message: MessageId) -> None:
        """Interrupt the current run, unless it answers this very message, which is then sent again."""
        run = await self.current_run()
        if run is not None and run.state not in TERMINAL and run.user_message != message:
            await self.interrupt(run.id, seen=seen)

    async def _admit(
        self, ask: Submit | Regenerate, when_busy: WhenBusy, key: str | None, context: SealedContext
    ) -> Run:
        named, more = (self.owner, self.id, self.agent), (self.operation_set, self.tools, self.options)
        return await self.backend.admit(*named, ask, when_busy, key, context, *more)

    async def _seal_context(self) -> SealedContext:
        """The encrypted context that is stored with the run. Checked before anything is stored."""
        schema = (await self.backend.agent(self.agent)).context_schema
        if schema is None:
            return SealedContext()
        remembered = await self.backend.store.session_context(self.owner, self.id)
        where = self.backend.sealer, self.owner.tenant, self.id
        return await seal_context(self.context, schema, *where, remembered, self.backend.check)

    async def _read_files(self, turn: ImportedTurn) -> list[ReceivedFile]:
        files = file_parts(turn)
        if not files:
            return []
        if self.backend.attachments is None:
            raise Invalid("files are not taken here", files[0][0])
        return await self.backend.attachments.read(files, self.owner)

    async def _find_duplicate(self, message: MessageId, digest: bytes, key: str | None) -> Run | None:
        """The run that this very request has made already: its files are not fetched or stored again."""
        run = await self.backend.store.find_duplicate(self.owner, self.id, self.agent, message, digest, key)
        if run is not None:
            log.info("run_admitted", session=self.id, run=run.id, created=False)
            await self.backend.publish(run)
        return run

    async def _store_files(
        self, turns: Sequence[ImportedTurn], files: Sequence[ReceivedFile], *, fetch_urls: bool
    ) -> list[MessageDict]:
        """The turns' messages with their files stored. `files` are those of the first turn.

        The others are imports, which only a new session stores: an existing one's are dropped unread. Raises
        `Limited` before a file is fetched, if the tenant may not have another run.
        """
        await self.backend.store.check_limits(self.owner)
        attachments = self.backend.attachments
        if attachments is not None and await self.current_run() is None:
            earlier = [file for turn in turns[1:] for file in file_parts(turn)]
            files = [*files, *await attachments.read_earlier(earlier, self.owner)]
        else:
            turns = [turns[0], *without_files(turns[1:])]
        if attachments is None or not files:
            return [turn.message for turn in turns]
        parts = iter(await attachments.store(files, self.owner, fetch_urls=fetch_urls))
        return [with_files(turn.message, [next(parts) for _ in file_parts(turn)]) for turn in turns]
