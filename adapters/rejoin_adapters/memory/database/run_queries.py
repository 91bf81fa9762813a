"""The part of `RunStore` in memory that reads runs and messages and changes nothing."""

from collections.abc import Sequence
from itertools import zip_longest

from rejoin_adapters.console_types import (
    ALL_CALLS,
    COUNTED_MAX,
    CallFilter,
    OverviewFilter,
    RunOverview,
    UnansweredCall,
)
from rejoin_adapters.memory.database.recovery import MemoryRunRecovery
from rejoin_adapters.memory.database.run_counts import count_runs
from rejoin_adapters.session_keys import named_run, named_summary
from rejoin_adapters.store_types import (
    ALL_RUNS,
    EarlierMessages,
    History,
    MessageWithNext,
    Owner,
    Run,
    RunFilter,
    RunSummary,
)
from rejoin_protocol.ids import MessageId, RunId, SessionId
from rejoin_protocol.lifecycle import BUSY, TERMINAL
from rejoin_protocol.limits import PAGE_BYTES_MAX


class MemoryRunQueries(MemoryRunRecovery):
    """The methods of `RunStore` that gateways and commands ask with."""

    async def find_run(self, owner: Owner, run: RunId) -> Run | None:
        """See `RunStore`."""
        found = self.database.find_run(owner, run)
        return named_run(owner, found.row) if found is not None else None

    async def has_ended(self, owner: Owner, run: RunId, turn: int | None = None) -> bool:
        """See `RunStore`."""
        found = self.database.find_run(owner, run)
        if found is None or found.row.state in TERMINAL:
            return True
        return turn is not None and (found.row.state not in BUSY or found.row.turn > turn)

    async def current_run(self, owner: Owner, session: SessionId) -> Run | None:
        """See `RunStore`."""
        found = self.database.find_session(owner, session)
        run = found and (found.turn or next(reversed(found.runs), None))
        return named_run(owner, run.row) if run else None

    async def history(
        self, owner: Owner, session: SessionId, *, after: int = -1, bytes_max: int = PAGE_BYTES_MAX
    ) -> History | None:
        """See `RunStore`."""
        found = self.database.find_session(owner, session)
        if found is None:
            return None
        active = named_run(owner, found.turn.row) if found.turn is not None else None
        messages, following = found.page(after, bytes_max)
        waiting = [run for run in found.runs if run.steers is not None and not run.is_taken]
        steering = [one.message_body for one in waiting if not one.row.interrupted and after < 0]
        return History(found.agent, messages, active, found.created_at, found.updated_at, following, steering)

    async def find_message(
        self, owner: Owner, session: SessionId, message: MessageId
    ) -> MessageWithNext | None:
        """See `RunStore`."""
        found = self.database.find_session(owner, session)
        shown = found.shown if found is not None else []
        for body, following in zip_longest(shown, shown[1:]):
            if body["id"] == message:
                return MessageWithNext(body, None if following is None else following["id"])
        return None

    async def messages_before(
        self,
        owner: Owner,
        session: SessionId,
        message: MessageId,
        *,
        after: MessageId | None = None,
        limit: int = 20,
        oldest_first: bool = False,
    ) -> EarlierMessages | None:
        """See `RunStore`."""
        found = self.database.find_session(owner, session)
        end = None if found is None else found.message(message)
        if found is None or end is None:
            return None
        return found.before(end, after, limit, oldest_first=oldest_first)

    async def session_context(self, owner: Owner, session: SessionId) -> bytes | None:
        """See `RunStore`."""
        found = self.database.find_session(owner, session)
        return found.context if found is not None else None

    async def list_runs(
        self, owner: Owner, wanted: RunFilter = ALL_RUNS, limit: int = 20
    ) -> Sequence[RunSummary]:
        """See `RunStore`."""
        session = None if wanted.session is None else self.database.key(owner, wanted.session)
        found = [
            named_summary(owner, run.listed)
            for run in self.database.runs.values()
            if self.database.find_run(owner, run.row.id) is not None and run.matches(wanted, session)
        ]
        return sorted(found, key=lambda one: one.run.id, reverse=True)[:limit]

    async def waiting_calls(
        self, owner: Owner, wanted: CallFilter = ALL_CALLS, limit: int = 20
    ) -> Sequence[UnansweredCall]:
        """See `RunStore`."""
        found = [
            UnansweredCall(one.shown, named_run(owner, one.run.row), one.number, one.asked_at)
            for one in self.database.approvals.values()
            if one.pending
            and one.number > wanted.after
            and self.database.find_run(owner, one.run.row.id) is not None
            and wanted.kind in {None, one.request.kind}
            and wanted.agent in {None, one.run.row.agent}
            and wanted.user in {None, one.run.row.user}
            and wanted.run in {None, one.run.row.id}
        ]
        return found[:limit]

    async def overview(self, owner: Owner, wanted: OverviewFilter) -> RunOverview:
        """See `RunStore`."""
        mine = [
            run
            for run in self.database.runs.values()
            if self.database.find_run(owner, run.row.id) is not None
            and wanted.agent in {None, run.row.agent}
            and not run.is_taken
        ]
        recent = sorted((run for run in mine if run.created_at >= wanted.since), key=lambda run: run.row.id)
        return count_runs(mine, recent[-COUNTED_MAX:], wanted.period)

    async def run_summary(self, owner: Owner, run: RunId) -> RunSummary | None:
        """See `RunStore`."""
        found = self.database.find_run(owner, run)
        return named_summary(owner, found.listed) if found is not None else None
