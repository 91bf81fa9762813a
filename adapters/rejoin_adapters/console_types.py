"""The records that the database ports return about many runs at once, for those who operate them."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from rejoin_adapters.store_types import Approval, RequestKind, Run
from rejoin_protocol.ids import AgentName, RunId, UserId
from rejoin_protocol.lifecycle import State


class CallFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which waiting calls to list: those that have all of these. `after`: asked after the call with this
    number, for the next page.
    """

    kind: RequestKind | None = None
    agent: AgentName | None = None
    user: UserId | None = None
    run: RunId | None = None
    after: int = 0


ALL_CALLS = CallFilter()


SEARCHED_MAX = 1_000
"""Sessions that one request looks for a text in; the next page goes on behind them."""


class SessionFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which sessions to list: those that have all of these. `text`: a part of the id, of the title, or, of a
    session without one, of the first user message, in any case of letters. `before`: a page token.
    """

    text: str | None = None
    agent: AgentName | None = None
    user: UserId | None = None
    before: str | None = None


class UnansweredCall(msgspec.Struct, frozen=True):
    """A tool call that waits for a person or a client, and its run. `number` grows in the order of asking.
    `since`: when it was asked.
    """

    approval: Approval
    run: Run
    number: int
    since: datetime


COUNTED_MAX = 10_000
"""Runs that an overview counts: the newest ones."""
ERRORS_MAX = 20
"""Different errors, and codes of errors, that an overview names: the most frequent ones."""
ERROR_KIND_CHARS_MAX = 160


class OverviewFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs an overview counts: those of an agent, or all, that were admitted at `since` or later. Their
    periods have this length.
    """

    since: datetime
    period: timedelta
    agent: AgentName | None = None


class UnfinishedRuns(msgspec.Struct, frozen=True):
    """An agent's runs in one state. `longest_s`: how long one of them is in it; for queued runs, how long it
    waits for a runner or a place.
    """

    agent: AgentName
    state: State
    runs: int
    longest_s: float


class RunPeriod(msgspec.Struct, frozen=True):
    """An agent's runs that were admitted in the period from `start` on and are in this state now."""

    start: datetime
    agent: AgentName
    state: State
    runs: int
    input_tokens: int
    output_tokens: int


class ErrorCodeRuns(msgspec.Struct, frozen=True):
    """Failed runs with the same code, and the last of them."""

    code: str
    runs: int
    last: RunId


class ErrorKind(msgspec.Struct, frozen=True):
    """Failed runs with the same code and the same error, but for numbers in it, and the last of them."""

    code: str
    text: str
    runs: int
    last: RunId


class LossCount(msgspec.Struct, frozen=True):
    """Attempts that were lost by this cause, see `Loss`: another runner took their runs over."""

    cause: str
    attempts: int


class RunOverview(msgspec.Struct, frozen=True):
    """Counts of runs. `counted`: the runs of all periods, at most the newest `COUNTED_MAX`. `wait_s`: half of
    them, and 95 % of them, waited at most so long for their first claim; empty without any.
    """

    unfinished: Sequence[UnfinishedRuns]
    periods: Sequence[RunPeriod]
    error_codes: Sequence[ErrorCodeRuns]
    errors: Sequence[ErrorKind]
    losses: Sequence[LossCount]
    counted: int
    wait_s: Sequence[float] = ()
