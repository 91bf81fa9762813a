"""The ports of one gateway, and the steps that every request for a run takes: admit, publish, replay.

Holds no state of its own, so any gateway can answer for any session. Knows nothing of HTTP.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial

import msgspec
import structlog

from rejoin_adapters.ports.agent_registry import AgentRegistry
from rejoin_adapters.ports.artifacts import Artifacts
from rejoin_adapters.ports.feedback import FeedbackStore
from rejoin_adapters.ports.run_control import RunControl
from rejoin_adapters.ports.run_log import RunLog
from rejoin_adapters.ports.run_queue import RunQueue
from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.ports.session_store import SessionStore
from rejoin_adapters.process import tracing
from rejoin_adapters.process.fair_share import FairShare
from rejoin_adapters.store_types import (
    Admission,
    Admitted,
    Approval,
    Owner,
    Regenerate,
    Run,
    Submit,
    WhenBusy,
)
from rejoin_gateway.broker_watch import BrokerWatch, unwatched
from rejoin_gateway.core.agent_context import SealedContext
from rejoin_gateway.core.attachments import Attachments
from rejoin_gateway.core.file_urls import FileAccess, FileUrls
from rejoin_gateway.metrics import GatewayMetrics
from rejoin_gateway.streaming.answered_parts import has_waiting_calls, with_answers
from rejoin_gateway.streaming.given_answers import GivenAnswers
from rejoin_gateway.streaming.positions import Position, counted_from
from rejoin_gateway.streaming.replay import HEARTBEAT_S, Replay
from rejoin_gateway.streaming.resume_point import find_resume_point
from rejoin_protocol import ids
from rejoin_protocol.errors import NotFound, Unavailable
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.ids import AgentName, ApprovalId, MessageId, RunId, SessionId, TenantId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.log import model_call
from rejoin_protocol.log.model_call import RecordedAnswer, RecordedRequest
from rejoin_protocol.log.record import OperationSet, View
from rejoin_protocol.request_options import RequestOptions
from rejoin_protocol.request_tools import RequestTool
from rejoin_protocol.run_request import AgentEntry
from rejoin_protocol.security.sealing import Sealer

CHECKS_MAX = 4
"""Threads that check values by schemas at the same time. One tenant gets two of them."""

log = structlog.get_logger("rejoin.sessions")


class Steered(msgspec.Struct, frozen=True):
    """A message that reaches `run` at its next step, or has reached it: that run's stream has it. If the run
    ends before, the message is the session's next turn.
    """

    run: Run
    message: MessageId


class ModelCallPage(msgspec.Struct, frozen=True):
    """Records of calls of models, oldest first: of each call its request, and behind it its answer once there
    is one, on this page or a following one. `unreadable`: records that this gateway's keys do not decrypt.
    `next`: the `after` of the following page; 0 on the last one.
    """

    records: Sequence[RecordedRequest | RecordedAnswer]
    unreadable: int
    next: int


def steered_run(message: MessageId, run: Run) -> RunId | None:
    """The run that a message steers or has steered. `run`: the message's, as the store returns it. None: that
    run answers it.
    """
    return run.steers or (run.id if run.user_message != message else None)


class Backend(msgspec.Struct, frozen=True):
    """The ports, a clock and a source of random bytes."""

    store: RunStore
    log: RunLog
    queue: RunQueue
    control: RunControl
    agents: AgentRegistry
    sessions: SessionStore
    artifacts: Artifacts
    feedback: FeedbackStore
    now: Callable[[], datetime]
    random_bytes: Callable[[int], bytes]
    attachments: Attachments | None = None
    """None: this gateway takes no files."""
    file_urls: FileUrls | None = None
    """Signs the URLs of files for clients. None: clients get the URLs as they are stored."""
    sealer: Sealer | None = None
    """Encrypts request contexts. None: agents that want a context cannot be used."""
    metrics: GatewayMetrics = msgspec.field(default_factory=GatewayMetrics)
    stream_heartbeat_s: float = HEARTBEAT_S
    broker: BrokerWatch = msgspec.field(default_factory=unwatched)
    checks: FairShare = msgspec.field(default_factory=lambda: FairShare(CHECKS_MAX))
    """The threads of `check`."""

    async def check[**Given, Result](
        self,
        tenant: TenantId,
        function: Callable[Given, Result],
        *given: Given.args,
        **options: Given.kwargs,
    ) -> Result:
        """Call a function that checks a client's values by a schema, which takes up to a second. In a thread,
        so that other requests are served meanwhile; tenants share the threads fairly.
        """
        place = await self.checks.take(tenant)
        work = asyncio.get_running_loop().run_in_executor(None, partial(function, *given, **options))
        work.add_done_callback(lambda _: place.release())  # not before its thread is free
        return await asyncio.shield(work)

    async def agent(self, name: AgentName) -> AgentEntry:
        """The entry that runners have announced for an agent. Raises `NotFound`."""
        entry = await self.agents.find(name)
        if entry is None:
            raise NotFound(f"there is no agent {name!r}")
        return entry

    async def admit(
        self,
        owner: Owner,
        session: SessionId,
        agent: AgentName,
        ask: Submit | Regenerate,
        when_busy: WhenBusy,
        key: str | None,
        context: SealedContext,
        operation_set: OperationSet,
        tools: Sequence[RequestTool],
        options: RequestOptions,
    ) -> Run:
        """Store a run, then publish its request. Raises as `RunStore.admit`.

        The order is the guarantee: a client that gets an answer has its message in the database, even if the
        gateway dies before the request is published. Runners find such runs again.
        """
        self.broker.require_writable()
        time_ms = int(self.now().timestamp() * 1000)
        run = ids.new_run_id(time_ms, self.random_bytes(ids.RANDOM_BYTES), self.broker.shards)
        await self.log.expect(run)  # the broker learns it while the database works
        answer = ids.new_message_id(time_ms, self.random_bytes(ids.RANDOM_BYTES))
        if isinstance(ask, Regenerate) and ask.kept is not None:
            ask = msgspec.structs.replace(ask, kept={**ask.kept, "id": answer})
        admission = Admission(
            owner,
            session,
            agent,
            run,
            answer,
            ask,
            when_busy=when_busy,
            key=key,
            context=context.sealed,
            remember=context.remember,
            operation_set=operation_set,
            request_tools=tools,
            request_options=options,
            trace=tracing.current_trace(),
        )
        try:
            admitted = await self.store.admit(admission)
        except BaseException:
            await self.log.forget(run)
            raise
        if admitted.run.id != run or admitted.run.steers is not None:  # another run's stream has the answer
            await self.log.forget(run)
        await self._publish_admitted(admitted)
        return admitted.run

    async def forget_stream(self, run: Run) -> None:
        """The request that has made a run wants no stream of it."""
        await self.log.forget(run.id)

    async def _publish_admitted(self, admitted: Admitted) -> None:
        run = admitted.run
        log.info("run_admitted", session=run.session, run=run.id, created=admitted.created)
        if admitted.interrupted is not None:
            await self.stop(admitted.interrupted)
        await self.publish(run)

    async def stop(self, run: Run) -> None:
        """Have a run ended that is stored as interrupted: by the runner that executes it, or by the next one
        that claims it.
        """
        log.info("run_interrupted", session=run.session, run=run.id, state=run.state)
        await self.publish(run)
        if run.state is State.RUNNING:
            await self.signal_interrupt(run.id)

    async def signal_interrupt(self, run: RunId) -> None:
        """Tell the runner that executes a run to stop it.

        A lost connection is logged and ignored: the interrupt is stored, and the run's next claim reads it.
        """
        try:
            await self.control.interrupt(run)
        except Unavailable as fault:
            log.warning("interrupt_delivery_failed", run=run, error=str(fault))

    async def publish(self, run: Run) -> None:
        """Publish the request of a queued run whose turn it is. The queue drops duplicates."""
        if run.state is State.QUEUED and run.ready:
            await self.queue.publish(run.request)

    async def replay(self, run: Run, position: Position, view: View, *, until: int | None) -> Replay:
        """A run's stream from a position, up to the end of turn `until`; None: to the end of the run.

        Raises `Invalid` or `Gone` for a position that is not in the run's log.
        """
        start = await find_resume_point(self.log, run, position, view)
        rewrite = None
        if self.file_urls is not None:
            rewrite = partial(self.file_urls.rewrite_frames, tenant=run.owner.tenant, message=run.answer)
        return Replay(
            self.store,
            self.log,
            run,
            start,
            view,
            until,
            self.metrics,
            self.stream_heartbeat_s,
            rewrite,
            # A client that states version 7 knows cursors, and compares the id with that of the run.
            counted_from=0 if view.v7 else counted_from(position),
        )

    async def shown_messages(
        self, messages: Sequence[MessageDict], owner: Owner, session: SessionId
    ) -> Sequence[MessageDict]:
        """Stored messages of a session as clients read them: with the answers that their runs do not have yet
        and with signed URLs of files.
        """
        if any(map(has_waiting_calls, messages)):
            messages = with_answers(messages, await self.store.answered_calls(owner, session))
        urls = self.file_urls
        return messages if urls is None else [urls.with_urls(message, owner.tenant) for message in messages]

    async def model_calls(self, run: Run, *, after: int, step: int | None, records_max: int) -> ModelCallPage:
        """A page of the records of a run's models behind sequence `after`: of one step, or of all."""
        page = await self.log.model_calls(run.id, after=after, step=step, records_max=records_max)
        found = [model_call.unpack(one, self.sealer, run.owner.tenant, run.id) for one in page.calls]
        records = [record for record in found if record is not None]
        return ModelCallPage(records, len(found) - len(records), page.next)

    async def given_answers(self, run: Run) -> list[bytes]:
        """The events of answers that a run was given while it waits for others, as JSON."""
        return await GivenAnswers(self.store, run, View()).events() if run.state is State.SUSPENDED else []

    async def approvals(self, run: Run, wanted: Sequence[ApprovalId]) -> Sequence[Approval]:
        """The approvals of a run's session with these ids, decided or not."""
        return await self.store.pending_approvals(run.owner, run.session, wanted) if wanted else []

    def file_access(self, id: str, query: Mapping[str, str]) -> FileAccess | None:
        """What the query of a file's URL allows without a credential; None if it is not signed or expired."""
        return None if self.file_urls is None else self.file_urls.verify(id, query)
