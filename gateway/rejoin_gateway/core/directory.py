"""What one caller can look up: agents, sessions, runs, artifacts and files, by their ids alone.

A caller is an owner and, for a credential that is bound to one agent, that agent. Whatever belongs to another
owner or agent is reported as if it did not exist.
"""

from collections.abc import Mapping, Sequence

import msgspec

from rejoin_adapters.console_types import (
    CallFilter,
    OverviewFilter,
    RunOverview,
    SessionFilter,
    UnansweredCall,
)
from rejoin_adapters.ports.files import OpenFile
from rejoin_adapters.store_types import (
    Artifact,
    AskedCall,
    Fork,
    Owner,
    Run,
    RunFilter,
    RunSummary,
    SessionPage,
    SessionSummary,
)
from rejoin_gateway.core.backend import Backend
from rejoin_gateway.core.session import Session
from rejoin_protocol import file_ids
from rejoin_protocol.errors import NotFound
from rejoin_protocol.ids import RUN_PREFIX, AgentName, CallId, RunId, SessionId, parse_turn_id
from rejoin_protocol.run_request import AgentEntry

OPENING_CHARS_MAX = 100


class Directory(msgspec.Struct, frozen=True):
    """`agent`: the one agent that the caller may use; None: any."""

    backend: Backend
    owner: Owner
    agent: AgentName | None = None

    async def agents(self) -> list[AgentEntry]:
        """The agents that the caller may use, by name."""
        entries = [entry for entry in await self.backend.agents.list() if self._may_use(entry.name)]
        return sorted(entries, key=lambda entry: entry.name)

    async def find_agent(self, name: AgentName) -> AgentEntry | None:
        """An agent that the caller may use."""
        return await self.backend.agents.find(name) if self._may_use(name) else None

    async def session(self, id: SessionId) -> Session:
        """The session with this id, whether it exists or not. Some clients name it by the id of its run.

        Raises `NotFound` if it belongs to another agent than the caller's.
        """
        if self.agent is not None:
            run = await self._run_of(id)
            if run is not None and run.agent != self.agent:
                raise NotFound(f"there is no session {id!r}")
        return Session(self.backend, self.owner, id)

    async def _run_of(self, id: SessionId) -> Run | None:
        run = await self.backend.store.current_run(self.owner, id)
        if run is None and id.startswith(RUN_PREFIX):
            run = await self.backend.store.find_run(self.owner, parse_turn_id(id)[0])
        return run

    async def summary(self, id: SessionId) -> tuple[SessionSummary, Session]:
        """A session that exists. Raises `NotFound`."""
        session = Session(self.backend, self.owner, id)
        summary = await session.summary()
        if not self._may_use(summary.agent):
            raise NotFound(f"there is no session {id!r}")
        return summary, session

    async def sessions(self, *, limit: int, before: str | None, skip: int = 0) -> SessionPage:
        """A page of sessions, the last changed first, without the first `skip`. `before`: the page token.
        Raises `Invalid` for it.
        """
        return await self.backend.sessions.list(
            self.owner, agent=self.agent, limit=limit, before=before, skip=skip
        )

    async def search_sessions(self, wanted: SessionFilter, limit: int) -> SessionPage:
        """A page of the sessions that a filter names. Raises `Invalid` for its page token."""
        allowed = self._narrow(wanted)
        if allowed is None:
            return SessionPage([], None)
        return await self.backend.sessions.search(self.owner, allowed, limit)

    async def count_sessions(self, count_max: int, *, roots: bool = False) -> int:
        """The number of sessions; counts no further than `count_max`. `roots`: without forks."""
        return await self.backend.sessions.count(
            self.owner, agent=self.agent, count_max=count_max, roots=roots
        )

    async def titles(self, summaries: Sequence[SessionSummary]) -> Mapping[SessionId, str]:
        """Titles to show: the session's own, or else how its first user message begins."""
        untitled = [one.id for one in summaries if not one.title]
        openings = await self.backend.sessions.openings(self.owner, untitled) if untitled else {}
        return {
            **{session: shorten(text, OPENING_CHARS_MAX) for session, text in openings.items()},
            **{one.id: one.title for one in summaries if one.title},
        }

    async def root_sessions(self, *, limit: int, before: str | None) -> tuple[SessionPage, Sequence[Fork]]:
        """Like `sessions`, without forks, and with the forks of the page's sessions."""
        sessions = self.backend.sessions
        page = await sessions.list(self.owner, agent=self.agent, limit=limit, before=before, roots=True)
        forks = await sessions.forks(self.owner, [summary.id for summary in page.sessions])
        return page, forks

    async def run(self, id: RunId) -> tuple[RunSummary, Session] | None:
        """A run and its session."""
        summary = await self.backend.store.run_summary(self.owner, id)
        if summary is None or not self._may_use(summary.run.agent):
            return None
        return summary, Session(self.backend, self.owner, summary.run.session)

    async def runs(self, wanted: RunFilter, limit: int) -> Sequence[RunSummary]:
        """The runs that a filter names, the last admitted first."""
        allowed = self._narrow(wanted)
        return [] if allowed is None else await self.backend.store.list_runs(self.owner, allowed, limit)

    async def overview(self, wanted: OverviewFilter) -> RunOverview:
        """Counts of the runs of the agent that the caller may use, or of all."""
        wanted = msgspec.structs.replace(wanted, agent=self.agent)
        return await self.backend.store.overview(self.owner, wanted)

    async def waiting_calls(self, wanted: CallFilter, limit: int) -> Sequence[UnansweredCall]:
        """The calls that wait for somebody and that a filter names, in the order of asking."""
        allowed = self._narrow(wanted)
        return [] if allowed is None else await self.backend.store.waiting_calls(self.owner, allowed, limit)

    async def calls(self, call: CallId) -> list[AskedCall]:
        """The tool calls with this id that need or needed a decision, the open ones first."""
        found = await self.backend.store.find_calls(self.owner, call)
        return [asked for asked in found if self._may_use(asked.run.agent)]

    async def artifact(self, id: str) -> Artifact | None:
        """An artifact with its whole content."""
        artifact = await self.backend.artifacts.get(self.owner, id)
        if artifact is None or self.agent is None:
            return artifact
        # Only the session knows its agent.
        summary = await self.backend.sessions.get(self.owner, artifact.session)
        return artifact if summary is not None and summary.agent == self.agent else None

    async def open_file(self, id: str) -> tuple[str, OpenFile] | None:
        """A message's file, ready to be read, and its id in canonical form. A caller that may use one agent
        reads the files of that agent's sessions.
        """
        file_id, attachments = file_ids.parse_file_id(id), self.backend.attachments
        if file_id is None or attachments is None or not file_ids.is_visible_to(file_id, self.owner.user):
            return None
        tenant = self.owner.tenant
        if self.agent is not None and not await attachments.files.is_used_by(tenant, file_id, self.agent):
            return None
        file = await attachments.open(tenant, file_id)
        return None if file is None else (file_id, file)

    def _narrow[Filter: (RunFilter, SessionFilter, CallFilter)](self, wanted: Filter) -> Filter | None:
        """The filter with the caller's agent. None if it names another one."""
        if wanted.agent is not None and not self._may_use(wanted.agent):
            return None
        return msgspec.structs.replace(wanted, agent=wanted.agent or self.agent)

    def _may_use(self, agent: AgentName) -> bool:
        return self.agent in (None, agent)


def shorten(text: str, chars_max: int) -> str:
    """The text, or its beginning with three dots behind it."""
    return text if len(text) <= chars_max else f"{text[:chars_max]}..."


def sort_default_first(entries: Sequence[AgentEntry], default: AgentName | None) -> list[AgentEntry]:
    """The entries with the default agent's first; the others keep their order."""
    return sorted(entries, key=lambda entry: entry.name != default)
