"""The records that the database ports exchange with their callers. See `rejoin_adapters.ports`."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

import msgspec

from rejoin_adapters.usage_types import RunUsage
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.ids import AgentName, ApprovalId, CallId, MessageId, RunId, SessionId, TenantId, UserId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.limits import Count
from rejoin_protocol.log.record import OperationSet
from rejoin_protocol.request_options import RequestOptions
from rejoin_protocol.request_tools import RequestTool
from rejoin_protocol.run_request import RunRequest


class Owner(msgspec.Struct, frozen=True):
    """The tenant, and optionally the user, on whose behalf a method acts. Without a user it sees everything
    of the tenant; with a user only that user's sessions, and the sessions it creates belong to that user.
    """

    tenant: TenantId
    user: UserId | None = None


class AuditEntry(msgspec.Struct, frozen=True):
    """Who did what, when and from where. `role`: the role that the database knows. `action`: `key.created`,
    `key.changed`, `key.revoked`, `key.deleted`, `approval.approved`, `approval.denied`, `sessions.deleted` or
    `limits.set`. `target`: the id of what was changed. `detail` depends on the action.
    """

    number: int
    at: datetime
    tenant: TenantId
    actor: str
    peer: str | None
    role: str
    action: str
    target: str
    detail: dict[str, Any]


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Limits of one tenant. None: the default limit of the deployment; there, None is no limit.

    `running_max`: ready runs; further runs wait, in the order of their admission. `queued_max`: runs that no
    runner has claimed; checked without a lock, so a burst may exceed it slightly. `tokens_per_day`: per UTC
    day, of runs that have ended or were suspended; `nano_usd_per_day`: as much, as money.
    `requests_per_minute`: at each gateway. `file_bytes_max`:
    all files together; the same bytes of one user count once. `session_bytes_max`: the messages of a session,
    as JSON, and the request tools of its runs; the next message is refused. `text_bytes_max`: all sessions
    together, checked before a fork. `user_…`: the same for each user of the tenant.
    """

    running_max: Count | None = None
    queued_max: Count | None = None
    tokens_per_day: Count | None = None
    nano_usd_per_day: Count | None = None
    requests_per_minute: Count | None = None
    file_bytes_max: Count | None = None
    session_bytes_max: Count | None = None
    text_bytes_max: Count | None = None
    user_running_max: Count | None = None
    user_queued_max: Count | None = None
    user_text_bytes_max: Count | None = None


class UserMessage(msgspec.Struct, frozen=True):
    """A user's message to be stored. `digest` tells a repeated request from a different one."""

    message: MessageDict
    digest: bytes


class Submit(msgspec.Struct, frozen=True):
    """Answer a new message. With `edit`, a stored message of the same id and other content is replaced and
    all messages behind it are dropped.
    """

    user_message: UserMessage
    edit: bool = False
    imports: Sequence[MessageDict] = ()
    """Earlier messages, stored only if the session is new."""


class Regenerate(msgspec.Struct, frozen=True):
    """Answer again: drop the messages behind `target`, and `target` itself if it is an assistant message.
    None is the last answer. `kept`: finished steps of another answer, with which the new one begins; their
    calls have their results.
    """

    target: MessageId | None = None
    kept: MessageDict | None = None


class WhenBusy(StrEnum):
    """What happens to a request while another run of its session is queued or running. A run whose interrupt
    is stored does not count.
    """

    ENQUEUE = "enqueue"  # the new run waits for its turn
    INTERRUPT = "interrupt"  # the new run waits; the current run and all suspended runs are interrupted
    REJECT = "reject"
    STEER = (
        "steer"  # the message reaches the current run at its next step; if the run stops before, as ENQUEUE
    )


class Admission(msgspec.Struct, frozen=True):
    """A request to create a run. `run` and `answer` are new ids, used only if a run is created. `key`: the
    caller's idempotency key within the session; repeating it is the same request or a conflict.

    `context` is sealed and opaque here. It is deleted when the run ends; with `remember` the session keeps a
    copy for later runs that bring none. For this run only: `request_tools`, the client tools that the request
    brings, and `request_options`, what it sets besides. `trace`: the `traceparent` that all spans of the run
    belong to.
    """

    owner: Owner
    session: SessionId
    agent: AgentName
    run: RunId
    answer: MessageId
    action: Submit | Regenerate
    when_busy: WhenBusy = WhenBusy.ENQUEUE
    key: str | None = None
    context: bytes | None = None
    remember: bool = False
    operation_set: OperationSet = OperationSet.NONE
    request_tools: Sequence[RequestTool] = ()
    request_options: RequestOptions = RequestOptions()
    trace: str | None = None


class Run(msgspec.Struct, frozen=True):
    """A stored run. `ready`: it is first in its session and has a place in its tenant, so runners may claim
    it. `answer`: the id of its assistant message. `turn`: how many suspensions it has continued from.
    `interrupted`: a runner has to end it. `user`: the user of its session. `usage`: as of its last suspension
    or its end. `user_message`: the message that it answers. `operation_set`: which operations its streams
    have. `steers`: the run that its message is to reach; it is queued for the case that it does not. `trace`:
    see `Admission`. `error_code`: the kind of failure of a failed run, None of any other.
    """

    id: RunId
    tenant: TenantId
    session: SessionId
    agent: AgentName
    answer: MessageId
    state: State
    ready: bool
    turn: int
    attempt: int
    error: str | None = None
    error_code: str | None = None
    interrupted: bool = False
    user: UserId | None = None
    usage: RunUsage = RunUsage()
    user_message: MessageId | None = None
    operation_set: OperationSet = OperationSet.NONE
    steers: RunId | None = None
    trace: str | None = None

    @property
    def owner(self) -> Owner:
        """The owner on whose behalf the run executes."""
        return Owner(self.tenant, self.user)

    @property
    def request(self) -> RunRequest:
        """The queue's request for the run's current turn."""
        return RunRequest(self.agent, self.id, self.turn, self.trace)


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs to list: those that have all of these. `since`: admitted at this time or later. `before`:
    admitted before this run, for the next page. `error`: failed with this code.
    """

    state: State | None = None
    error: str | None = None
    agent: AgentName | None = None
    user: UserId | None = None
    session: SessionId | None = None
    since: datetime | None = None
    before: RunId | None = None


ALL_RUNS = RunFilter()


class RunSummary(msgspec.Struct, frozen=True):
    """A run for operators: with its times and the runner that claimed it last. `started_at`: the first claim.
    `ended_at`: None until the run has ended.
    """

    run: Run
    created_at: datetime
    updated_at: datetime
    runner: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


class RunCount(msgspec.Struct, frozen=True):
    """The number of an agent's ready runs in one state. `waiting_s`: how long the oldest waits for a
    runner.
    """

    agent: str
    state: str
    runs: int
    waiting_s: float | None = None


class Admitted(msgspec.Struct, frozen=True):
    """The result of `admit`. `created` is false for a repeated request. `interrupted`: the run that this one
    interrupts; the caller tells its runner.
    """

    run: Run
    created: bool
    interrupted: Run | None = None


class Interrupted(msgspec.Struct, frozen=True):
    """The run after `interrupt`, and whether it will be ended. The caller tells the runner of a running run
    and publishes the request of a queued, ready one. `run` is None if the session had nothing to interrupt.
    `known`: whether there is such a session; if not, the interrupt is kept for its first message.
    """

    run: Run | None
    interrupted: bool
    known: bool = True


type RequestKind = Literal["approval", "tool-output"]
"""What a waiting call needs: a person's decision, or the output of a tool that the client runs."""


class ApprovalRequest(msgspec.Struct, frozen=True):
    """A tool call that waits for a client: for a person's decision, or for the output of a tool that the
    client runs. `input` is what the person sees. After `expires_at` it can no longer be answered.
    `output_schema`: the JSON schema of the output; None: any JSON. `edit_schema`: that of the arguments that
    the person may put in place of `input`; None: they must not be changed.
    """

    id: ApprovalId
    call: CallId
    tool: str
    input: Any
    expires_at: datetime | None = None
    kind: RequestKind = "approval"
    output_schema: dict[str, Any] | None = None
    edit_schema: dict[str, Any] | None = None


class Decision(msgspec.Struct, frozen=True):
    """The answer to an approval request. For the kind `tool-output`: approved with an output, or not approved
    with the text of an error as the reason. `input`: changed arguments, with which the call runs. `by`: the
    user, or else the credential.
    """

    approval: ApprovalId
    approved: bool
    reason: str | None = None
    kind: RequestKind = "approval"
    output: Any = None
    input: dict[str, Any] | None = None
    by: str | None = None


class Decided(msgspec.Struct, frozen=True):
    """The run after `decide`, and the turn in which it continues, or has continued, with the decisions."""

    run: Run
    turn: int


class Approval(msgspec.Struct, frozen=True, rename={"request": "question"}):
    """An approval request with its decision, if there is one. `turn`: the turn that requested it. `expired`:
    it expired undecided, which is a denial. Without a decision it is pending, or its run has ended or was
    interrupted. `decided_at`: when it ceased to be pending.
    """

    request: ApprovalRequest
    decision: Decision | None
    turn: int
    expired: bool = False
    decided_at: datetime | None = None


class AskedCall(msgspec.Struct, frozen=True):
    """A tool call that needs or needed a person's decision, and its run."""

    approval: Approval
    run: Run


class Claim(msgspec.Struct, frozen=True):
    """What a runner needs to execute a run. `history`: the messages before its answer, oldest first.
    `answer`: the assistant message as of the last suspension. `context`: the one of the run's
    request, else the one that the session keeps. `waiting`: the earlier answers whose runs have not ended:
    their open questions may still be answered. `history_cut`: older messages were left out.
    `history_bytes`: the size of the history as JSON; if it is not here yet, `RunStore.load_history` reads it
    from `history_from` on. `steering`: messages that steer the run, oldest first; its log may have some.
    `request_tools`, `request_options`: see `Admission`.
    """

    run: Run
    history: Sequence[MessageDict]
    answer: MessageDict | None
    approvals: Sequence[Approval]
    context: bytes | None = None
    waiting: Sequence[MessageId] = ()
    history_cut: bool = False
    history_bytes: int = 0
    history_from: int | None = None
    steering: Sequence[MessageDict] = ()
    request_tools: Sequence[RequestTool] = ()
    request_options: RequestOptions = RequestOptions()


class Loss(msgspec.Struct, frozen=True):
    """An attempt that its runner has neither finished nor released, or has ended by an error.

    `cause`: `silent`, nobody knows why; `blocked`, `code` blocked the event loop for `seconds`; `died`, the
    process died in which the run was alone; `failed`, its runner gave it up because of an error. `code` names
    code of the application, and `call` its tool call.
    """

    attempt: int = 0
    cause: Literal["silent", "blocked", "died", "failed"] = "silent"
    code: str | None = None
    call: CallId | None = None
    seconds: float | None = None


class History(msgspec.Struct, frozen=True):
    """A session's messages, oldest first, except the answer of the `active_run`: the stream of that run
    replays it. `next`: the position behind which the following page begins; None: there is none.
    `steering`: the messages that wait for the next step of the active run.
    """

    agent: AgentName
    messages: Sequence[MessageDict]
    active_run: Run | None
    created_at: datetime
    updated_at: datetime
    next: int | None = None
    steering: Sequence[MessageDict] = ()


class EarlierMessages(msgspec.Struct, frozen=True):
    """A page of messages. `more`: whether there are others behind it."""

    messages: Sequence[MessageDict]
    more: bool


class MessageWithNext(msgspec.Struct, frozen=True):
    """A message of a session, and the id of the next message that `History` shows."""

    message: MessageDict
    next: MessageId | None


class SessionSummary(msgspec.Struct, frozen=True, rename={"is_busy": "busy"}):
    """A session without its messages. `messages` and `last_message` leave out the answer
    of a busy run.
    """

    id: SessionId
    agent: AgentName
    user: UserId | None
    title: str | None
    metadata: Any
    created_at: datetime
    updated_at: datetime
    messages: int
    is_busy: bool
    last_message: MessageId | None


class SessionPage(msgspec.Struct, frozen=True):
    """A page of sessions. `next`: the token of the following page, or None."""

    sessions: Sequence[SessionSummary]
    next: str | None


class Fork(msgspec.Struct, frozen=True, rename={"is_busy": "busy"}):
    """A session that was forked from another one. `root`: the session that the request named, from which it
    was forked directly or through other forks. `source` and `before`: the session that it was forked from,
    and the first message that was not copied.
    """

    root: SessionId
    id: SessionId
    source: SessionId
    before: MessageId
    title: str | None
    updated_at: datetime
    is_busy: bool


class ForkOrigin(msgspec.Struct, frozen=True):
    """Where a fork came from. `source` and `before`: see `Fork`. `copied`: how many messages of users and
    assistants were copied and are still there.
    """

    source: SessionId
    before: MessageId
    copied: int


class MessagePage(msgspec.Struct, frozen=True):
    """A page of messages, oldest first. `next`: the token of the page of older ones, or None. `times`: when
    each of the messages was first stored.
    """

    messages: Sequence[MessageDict]
    next: str | None
    times: Sequence[datetime]


class Artifact(msgspec.Struct, frozen=True):
    """A stored result of a tool. `summary` is shown before `data` is fetched; both are any JSON. `id` is
    unique in the tenant.
    """

    id: str
    session: SessionId
    run: RunId | None
    type: str
    name: str | None
    summary: Any
    data: Any
    created_at: datetime


class ApiKeyRow(msgspec.Struct, frozen=True):
    """A stored API key. `agent`: the key is valid for that agent only. `user`: it acts as that user only."""

    id: str
    tenant: TenantId
    hash: bytes
    scopes: Sequence[str]
    agent: AgentName | None
    user: UserId | None
    name: str | None
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
