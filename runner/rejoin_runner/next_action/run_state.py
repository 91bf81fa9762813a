"""What a run's log says about the run: its events and marks, folded into the facts that `decide` uses.

Pure. A claim applies every record of the stored log; after that the journal applies every event it accepts.
Live work and recovery therefore decide from the same state.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from enum import Enum, auto
from typing import Any

from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk, FinishReason
from rejoin_protocol.events.fold import Fold, MessageDict
from rejoin_protocol.ids import ApprovalId, CallId, MessageId
from rejoin_protocol.log import record as log
from rejoin_protocol.log.record import Audience, Mark, Record
from rejoin_runner.next_action.agent_stack import AgentStack, ToolCall


class Phase(Enum):
    """The phase of the run's message."""

    NOT_STARTED = auto()
    """The log has no event, or its first events have expired."""
    RESTORING = auto()
    """The stored message is being written to a new log, and is not complete there yet."""
    RUNNING = auto()
    SUSPENDED = auto()
    """The log ends with a suspension."""
    ENDED = auto()
    """The log is complete; no event may follow."""


class StepPhase(Enum):
    """The phase of the last step."""

    EMPTY = auto()
    """Open, and no event of the model's response came yet."""
    PARTIAL = auto()
    """Open, with a part of the response. After a crash the part is void."""
    GENERATED = auto()
    """Open, and the response is complete: the step's tool calls are final."""
    CLOSED = auto()
    """Closed after a complete response. Also the phase before the first step."""
    INCOMPLETE = auto()
    """Closed without a complete response: the step failed, or it comes from a restored message, which does
    not say which responses were complete.
    """


EARLY_ENDS: tuple[FinishReason, ...] = ("length", "content-filter")
"""Reasons for which a model ends an answer that is not whole."""
OPEN = frozenset({StepPhase.EMPTY, StepPhase.PARTIAL, StepPhase.GENERATED})
DELTAS = frozenset({chunks.TextDelta, chunks.ReasoningDelta, chunks.ToolInputDelta})
"""Events that change the message and nothing else of a run, but that its step is begun."""


class RunState:
    """The state. Everybody may read it; only `apply_record`, `apply` and `apply_mark` change it."""

    def __init__(self) -> None:
        self.progress = 0
        """Counts the progress, see `progress_attempt`."""
        self.last_seq = 0
        """Sequence of the last record that was read; 0 for none."""
        self.attempt = 0
        """The attempt that wrote the last record that was read."""
        self.restart(0)

    def restart(self, suspensions: int) -> None:
        """Forget all events, because the log begins again after this many suspensions of the run."""
        self.phase = Phase.NOT_STARTED
        self.step = StepPhase.CLOSED
        self.start_expired = False
        """The log's first records have expired, so its events cannot be folded."""
        self.attempts = 0
        """Attempts that have written since the last suspension."""
        self.fruitless_attempts: set[int] = set()
        """Attempts that have written since the last progress. The one that made progress is none of them."""
        self.progress_attempt = 0
        """The attempt that made the last progress: a model response or a call that is complete, or the end
        of a step or a turn. What a crash makes void is no progress.
        """
        self.fold = Fold()
        self.index = 0
        """Events so far, which is the index of the next event."""
        self.audiences: Counter[Audience] = Counter()
        """How many of them are for which audience."""
        self.size_bytes = 0
        """Their size as JSON."""
        self.suspensions = suspensions
        self.steps = 0
        self.frames = AgentStack()
        self.started_calls: frozenset[CallId] = frozenset()
        """Calls of the last step that an attempt may have started: those ready at the mark CALLING."""
        self.approval_ids: dict[CallId, ApprovalId] = {}
        """The approval requests in the log, by call."""
        self.approval_requests = 0
        """How many approval requests the log has; more than `approval_ids` if call ids repeat."""
        self.answered_approvals: set[ApprovalId] = set()
        """Approvals whose decision is in the log."""
        self.checked_calls: set[CallId] = set()
        """Calls that need no approval, as the functions said that decide it: those open at a mark CHECKED."""
        self.steering: set[MessageId] = set()
        """The steering messages in the log."""
        self.steering_waits = False
        """Whether one of them is behind the last step, so that no model has read it yet."""
        self.error: str | None = None
        self.error_code: str | None = None
        """Of the last failure: it precedes the error, as an operation."""
        self.aborted = False
        self._open_text: set[str] = set()
        self._open_reasoning: set[str] = set()

    @property
    def ended(self) -> bool:
        """Whether the log is complete."""
        return self.phase is Phase.ENDED

    @property
    def step_open(self) -> bool:
        """Whether a step has begun and is not finished."""
        return self.step in OPEN

    @property
    def finish_reason(self) -> FinishReason:
        """Why the message ends if nothing else is to be done."""
        return early_end_of(self.message) or "stop"

    @property
    def message(self) -> MessageDict:
        """The assistant message so far."""
        return self.fold.message

    @property
    def calls(self) -> Mapping[CallId, ToolCall]:
        """The tool calls of the active agent's last step."""
        return self.frames.top.calls

    @property
    def earlier_calls(self) -> Collection[CallId]:
        """The tool calls of earlier steps."""
        return self.frames.earlier_calls

    @property
    def open_calls(self) -> list[ToolCall]:
        """The active agent's calls without a result, in the model's order."""
        return self.frames.open_calls(self.frames.top)

    @property
    def all_open_calls(self) -> list[ToolCall]:
        """The calls without a result of all agents, the active agent's first, its caller's next."""
        frames = self.frames
        return [call for frame in reversed(frames.stack) for call in frames.open_calls(frame)]

    def closing_chunks(self) -> list[Chunk]:
        """The chunks that end the open text and reasoning parts."""
        text = [chunks.TextEnd(id=id) for id in sorted(self._open_text)]
        reasoning = [chunks.ReasoningEnd(id=id) for id in sorted(self._open_reasoning)]
        return [*text, *reasoning]

    def apply_record(self, record: Record) -> None:
        """Apply one record of the stored log. Records come in order, without a gap."""
        head = record.head
        progress = self.progress
        if head.attempt != self.attempt:
            self.fruitless_attempts.add(head.attempt)
        if head.mark is Mark.RESTORED:
            self.restart(head.turn)
        # Records expire from the oldest on. Without the first ones the rest cannot be folded, but the
        # counters in its heads are absolute: a journal that continues this log needs them.
        self.start_expired |= head.index != self.index
        if self.start_expired:
            self.index, self.suspensions = record.end, head.turn
            if head.mark is Mark.SUSPENDED:
                self.attempts = 0
        else:
            for event in log.split_events(record):
                self.apply(chunks.decode(event), head.audience)
                self.size_bytes += len(event)
            self.apply_mark(head.mark)
        if self.progress != progress:
            self.progress_attempt = head.attempt
            self.fruitless_attempts.clear()
        self.attempts += head.attempt != self.attempt
        self.attempt = head.attempt
        self.last_seq = record.seq

    def apply(self, chunk: Chunk, audience: Audience = Audience.ALL) -> None:
        """Apply one event."""
        self.fold.apply(chunk)
        self.index += 1
        self.audiences[audience] += 1
        if self.phase is Phase.SUSPENDED:
            self.phase = Phase.RUNNING
        if type(chunk) in DELTAS:  # most events: asking each rule below takes as long as the fold
            if self.step is StepPhase.EMPTY:
                self.step = StepPhase.PARTIAL
            return
        self._apply_to_run(chunk)
        self._apply_to_parts(chunk)
        self._apply_to_calls(chunk)

    def apply_mark(self, mark: Mark) -> None:
        """Apply what a batch says about the run besides its events."""
        self.progress += mark in {Mark.GENERATED, Mark.SUSPENDED, Mark.ENDED}
        match mark:
            case Mark.GENERATED:
                self.step = StepPhase.GENERATED if self.step_open else StepPhase.CLOSED
            case Mark.CHECKED:
                self.checked_calls |= {c.id for c in self.open_calls if c.id not in self.approval_ids}
            case Mark.CALLING:
                # A call whose approval is open has not started: it waits for its decision.
                self.started_calls = frozenset(
                    call.id
                    for call in self.open_calls
                    if call.id not in self.approval_ids
                    or self.approval_ids[call.id] in self.answered_approvals
                )
            case Mark.SUSPENDED:
                self.suspensions += 1
                self.phase = Phase.SUSPENDED
                # The limit on attempts holds for each turn: a run that people decide about often is claimed
                # often, without any crash.
                self.attempts = 0
            case Mark.ENDED:
                self.phase = Phase.ENDED
            case Mark.RESTORED:
                self.phase = Phase.RESTORING
            case Mark.NONE:
                pass

    def _apply_to_run(self, chunk: Chunk) -> None:
        match chunk:
            case chunks.Start():
                self.started_calls = frozenset()
                if self.phase is Phase.NOT_STARTED:
                    self.phase = Phase.RUNNING
            case chunks.SteeringMessage(id=id):
                self.steering.add(MessageId(id))
                self.steering_waits = True
            case chunks.StartStep():
                self.steering_waits = False
                self.steps += 1
                self.step = StepPhase.EMPTY
                self.started_calls = frozenset()
                self.frames.begin_step()
            case chunks.ResetStep():
                self.step = StepPhase.EMPTY if self.step_open else StepPhase.INCOMPLETE
                self.started_calls = frozenset()
                self.frames.void_step()
                self._open_text.clear()
                self._open_reasoning.clear()
            case chunks.FinishStep():
                self.progress += 1
                complete = self.step in (StepPhase.GENERATED, StepPhase.CLOSED)
                self.step = StepPhase.CLOSED if complete else StepPhase.INCOMPLETE
            case chunks.Error(error_text=text):
                self.error = text
            case chunks.Abort():
                self.aborted = True
            case _ if self.step is StepPhase.EMPTY:
                self.step = StepPhase.PARTIAL
            case _:
                pass

    def _apply_to_parts(self, chunk: Chunk) -> None:
        match chunk:
            case chunks.TextStart(id=id):
                self._open_text.add(id)
            case chunks.TextEnd(id=id):
                self._open_text.discard(id)
            case chunks.ReasoningStart(id=id, provider_metadata=metadata):
                self._open_reasoning.add(id)
                self.frames.attribute_part(metadata)
            case chunks.ReasoningEnd(id=id):
                self._open_reasoning.discard(id)
            case chunks.Data(type="data-operation", data={"type": "error", "code": str(code)}):
                self.error_code = code
            case _:
                pass

    def _apply_to_calls(self, chunk: Chunk) -> None:
        match chunk:
            case (
                chunks.ToolInputAvailable(provider_executed=True)
                | chunks.ToolInputError(provider_executed=True)
            ):
                pass  # the provider runs this tool and sends its result
            case chunks.ToolInputAvailable(
                tool_call_id=id, tool_name=tool, input=input, provider_metadata=metadata
            ):
                self.frames.add_call(ToolCall(CallId(id), tool, input), metadata)
            case chunks.ToolInputError(
                tool_call_id=id, tool_name=tool, input=input, provider_metadata=metadata
            ):
                self.frames.add_call(ToolCall(CallId(id), tool, input), metadata)
                self.frames.resolve_call(CallId(id), succeeded=False)
            case chunks.ToolApprovalRequest(approval_id=approval, tool_call_id=id):
                self.approval_ids[CallId(id)] = ApprovalId(approval)
                self.approval_requests += 1
            case chunks.ToolApprovalResponse(approval_id=approval):
                self.answered_approvals.add(ApprovalId(approval))
            case chunks.ToolOutputAvailable(tool_call_id=id, preliminary=preliminary):
                if preliminary is not True:
                    self.progress += 1
                    self.frames.resolve_call(CallId(id), succeeded=True)
            case chunks.ToolOutputError(tool_call_id=id) | chunks.ToolOutputDenied(tool_call_id=id):
                self.progress += 1
                self.frames.resolve_call(CallId(id), succeeded=False)
            case _:
                pass


def early_end_of(message: MessageDict) -> FinishReason | None:
    """Why the newest answer of the model ended early, by the message's metadata; None if it did not."""
    metadata = message.get("metadata")
    reason = metadata.get("finishReason") if isinstance(metadata, dict) else None
    return next((early for early in EARLY_ENDS if early == reason), None)


def usage_of(message: MessageDict) -> Mapping[str, Any]:
    """The token counts in the message's metadata: the sum over its steps so far. Empty if there are none."""
    metadata = message.get("metadata")
    usage = metadata.get("usage") if isinstance(metadata, dict) else None
    return usage if isinstance(usage, dict) else {}
