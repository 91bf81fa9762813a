"""What a run needs next: one pure function from what its log says.

There is no other memory. A runner that has just emitted something and one that has just taken the run over
ask the same question and get the same answer; so recovery is not a second program. A call without a result
that an earlier attempt may have started is `inherited`: its tool says whether it may be made again.

Agents that hand over or delegate change nothing of that: what is asked, run, suspended and resumed are the
calls of the agent that works. A delegate call waits for the other calls of its step and for its approval, and
gets its output when the frame it opens has nothing left to do.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import msgspec
from rejoin_adapters.records import Approval, Decision
from rejoin_protocol.ids import CallId
from rejoin_protocol.lifecycle import State

from rejoin_runner.decision.agent_stack import Call, delegate_target, transfer_target
from rejoin_runner.decision.run_state import Standing

NOBODY_DECIDED = "Nobody decided in time."
TRANSFERRED = "Not done: this step has handed the conversation over already."
TRANSFERS_SPENT = "Not done: the conversation was handed over too often. Go on with it yourself."
TOO_DEEP = "Not done: too many agents wait for each other. Do it yourself."


class Open(msgspec.Struct, frozen=True):
    """Begin the message."""


class Restore(msgspec.Struct, frozen=True):
    """Begin the log again with the stored message: it was suspended for longer than logs are kept."""


class Reopen(msgspec.Struct, frozen=True):
    """Go on with the message in a new turn."""


class Tell(msgspec.Struct, frozen=True):
    """Say what was decided."""

    decided: Sequence[Decision]


class Reset(msgspec.Struct, frozen=True):
    """Void the half-done step: its model response was never completed."""


class Generate(msgspec.Struct, frozen=True):
    """Call the model, in a new step unless one is open."""


class Ask(msgspec.Struct, frozen=True):
    """Store questions and show them."""

    calls: Sequence[Call]


class Act(msgspec.Struct, frozen=True):
    """Give calls their results: run some, deny some, and say of some that their outcome is unknown."""

    run: Sequence[Call]
    deny: Sequence[tuple[Call, Decision]]
    unknown: Sequence[Call]
    refuse: Sequence[tuple[Call, str]] = ()
    """Calls that are over a bound, and what the model is told."""


class Return(msgspec.Struct, frozen=True):
    """A delegated agent is done: its caller's call gets its output. Not `complete`: it ran out of steps."""

    call: Call
    complete: bool


class Abort(msgspec.Struct, frozen=True):
    """Somebody interrupted the run: leave no call open, and say so."""

    calls: Sequence[Call]


class CloseStep(msgspec.Struct, frozen=True):
    """Every call of the step has its result."""


class Suspend(msgspec.Struct, frozen=True):
    """Nothing can be done before a decision: end the response."""


class Leave(msgspec.Struct, frozen=True):
    """The log is suspended: let go of the run."""


class Finish(msgspec.Struct, frozen=True):
    """End the message."""

    reason: Literal["stop", "tool-calls", "error", "other"]


class Books(msgspec.Struct, frozen=True):
    """The log is complete: store its message and the run's end."""

    state: State


type Action = (
    Open
    | Restore
    | Reopen
    | Tell
    | Reset
    | Generate
    | Ask
    | Act
    | Return
    | Abort
    | CloseStep
    | Suspend
    | Leave
    | Finish
    | Books
)


class Policy(msgspec.Struct, frozen=True):
    """What the agent says about its calls."""

    asks: Callable[[Call], bool]
    """Whether a call needs a person's word."""
    retries: Callable[[Call], bool]
    """Whether a call whose outcome is unknown may be made again."""
    max_steps: int
    """Of the agent that works, in a row."""
    transfers_max: int = 10
    """In the run."""
    depth_max: int = 5
    """How many agents may wait for each other."""


class Facts(msgspec.Struct, frozen=True):
    """What the log cannot say: turns decided so far, the approvals, the calls that an earlier attempt may
    have started, whether the message of the last suspension is stored, whether somebody interrupted the run.
    """

    turn: int
    approvals: Mapping[CallId, Approval]
    inherited: Collection[CallId]
    stored: bool = False
    interrupted: bool = False

    def approved(self, call: Call) -> bool:
        """Whether a person has said yes to it."""
        approval = self.approvals.get(call.id)
        return approval is not None and approval.decision is not None and approval.decision.approved


def next_action(standing: Standing, facts: Facts, policy: Policy) -> Action:
    """Do it, feed what was emitted to `standing`, and ask again; `Leave` and `Books` are the last."""
    if standing.ended:
        return Books(outcome(standing))
    if not standing.opened or standing.restoring:
        return Restore() if facts.stored and facts.turn > 0 else Open()
    if standing.suspended:
        return Reopen() if facts.turn >= standing.suspensions else Leave()
    if standing.error is not None or standing.aborted:
        return Finish("error" if standing.error is not None else "other")
    if facts.interrupted:
        return Abort(standing.all_open_calls)
    if standing.step_open and not standing.generated:
        return Reset() if standing.step_dirty else Generate()
    return _after_response(standing, facts, policy)


def _after_response(standing: Standing, facts: Facts, policy: Policy) -> Action:
    calls = standing.open_calls
    # A question that is stored is shown, whatever the policy says by now: somebody may have answered it.
    unasked = [
        call
        for call in calls
        if call.id not in standing.asked and (call.id in facts.approvals or policy.asks(call))
    ]
    if unasked:
        return Ask(unasked)
    news = _news(standing, facts)
    if news:
        return Tell(news)
    act = _act(calls, standing, facts, policy)
    if act.run or act.deny or act.unknown or act.refuse:
        return act
    if any(_waits(call, standing, facts) for call in calls):
        return Suspend()
    if standing.step_open:
        return CloseStep()
    return Generate() if calls else _after_step(standing, policy)


def _after_step(standing: Standing, policy: Policy) -> Action:
    """Every call has its result."""
    frame = standing.frames.top
    unheard = frame.call is not None and not frame.calls and not standing.generated
    going_on = frame.steps == 0 or frame.successor is not None or unheard
    if going_on or (frame.calls and frame.stint < policy.max_steps):
        return Generate()
    if frame.call is not None:
        return Return(frame.call, complete=not frame.calls)
    return Finish("tool-calls" if frame.calls else "stop")


def _act(calls: Sequence[Call], standing: Standing, facts: Facts, policy: Policy) -> Act:
    run: list[Call] = []
    deny, unknown, refuse = [], [], []
    for call in calls:
        decision = _word(call, standing, facts)
        if call.id in standing.asked and decision is None:
            continue
        if decision is not None and not decision.approved:
            deny.append((call, decision))
        elif (reason := _refusal(call, run, standing, policy)) is not None:
            refuse.append((call, reason))
        elif delegate_target(call.tool) is not None:
            continue  # its turn comes when the step is closed
        elif call.id in facts.inherited and not policy.retries(call):
            unknown.append(call)
        else:
            run.append(call)
    return Act(run, deny, unknown, tuple(refuse))


def _refusal(call: Call, run: Sequence[Call], standing: Standing, policy: Policy) -> str | None:
    """Why a call to another agent is not made, if it is over a bound."""
    frames = standing.frames
    if delegate_target(call.tool) is not None:
        return TOO_DEEP if len(frames.stack) > policy.depth_max else None
    if transfer_target(call.tool) is None:
        return None
    if frames.top.successor is not None or any(transfer_target(other.tool) is not None for other in run):
        return TRANSFERRED
    return TRANSFERS_SPENT if frames.transfers >= policy.transfers_max else None


def _waits(call: Call, standing: Standing, facts: Facts) -> bool:
    """Whether a call that is still open is so because nobody has decided about it."""
    return call.id in standing.asked and _word(call, standing, facts) is None


def _word(call: Call, standing: Standing, facts: Facts) -> Decision | None:
    """What was decided about a call that was asked about."""
    approval = facts.approvals.get(call.id) if call.id in standing.asked else None
    return None if approval is None else _decision(approval)


def _news(standing: Standing, facts: Facts) -> list[Decision]:
    decisions = [_decision(approval) for approval in facts.approvals.values()]
    return [
        decision
        for decision in decisions
        if decision is not None and decision.approval not in standing.answered
    ]


def _decision(approval: Approval) -> Decision | None:
    """What was decided, by a person or by the lapse of time."""
    if approval.decision is not None and approval.expired:
        return msgspec.structs.replace(approval.decision, reason=NOBODY_DECIDED)
    return approval.decision


def outcome(standing: Standing) -> State:
    """The terminal state that a complete log says."""
    if standing.error is not None:
        return State.FAILED
    return State.CANCELLED if standing.aborted else State.COMPLETED


def inherited(standing: Standing) -> frozenset[CallId]:
    """The calls that an earlier attempt may have started."""
    return frozenset(call.id for call in standing.open_calls if call.id in standing.started)
