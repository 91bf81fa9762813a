"""What a run's log says about the run: its events and marks folded into the facts the machine decides by.

Pure. Fed with every record at a claim and with every emitted chunk after that, so that live work and
recovery look at the same thing.
"""

from collections.abc import Collection, Mapping

from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.events.fold import Fold, UIMessage
from rejoin_protocol.ids import ApprovalId, CallId
from rejoin_protocol.log import record as log
from rejoin_protocol.log.record import Audience, Mark, Record

from rejoin_runner.decision.agent_stack import AgentStack, ToolCall

__all__ = ("RunState", "ToolCall", "usage_of")


class RunState:
    """The facts. Read them; only `record`, `emit` and `mark` change them."""

    def __init__(self) -> None:
        self.prev = 0
        self.attempt = 0
        self.restart(0)

    def restart(self, suspensions: int) -> None:
        """Forget the events: the log begins again, `suspensions` turns into the run."""
        self.fold = Fold()
        self.headless = False  # the beginning of the log has expired
        self.restoring = False  # the stored message is being written again, and is not whole yet
        self.attempts = 0  # that have written since the last suspension
        self.index = 0
        self.operations = 0
        self.v7 = 0
        self.opened = False
        self.suspensions = suspensions
        self.suspended = False  # nothing came after the last suspension
        self.steps = 0
        self.step_open = False
        self.step_dirty = False
        self.generated = False
        self.started: frozenset[CallId] = frozenset()  # those that must not be repeated lightly
        self.frames = AgentStack()
        self.asked: dict[CallId, ApprovalId] = {}
        self.questions = 0
        self.answered: set[ApprovalId] = set()
        self.error: str | None = None
        self.aborted = False
        self.ended = False
        self._open_text: set[str] = set()
        self._open_reasoning: set[str] = set()

    @property
    def message(self) -> UIMessage:
        """The assistant message so far."""
        return self.fold.message

    @property
    def calls(self) -> Mapping[CallId, ToolCall]:
        """The calls of the last step of the agent that works."""
        return self.frames.top.calls

    @property
    def past(self) -> Collection[CallId]:
        """The calls of earlier steps."""
        return self.frames.past

    @property
    def open_calls(self) -> list[ToolCall]:
        """Those that have no result, in the model's order."""
        return self.frames.open_calls(self.frames.top)

    @property
    def all_open_calls(self) -> list[ToolCall]:
        """Also those of the agents that wait for others, the inmost first."""
        frames = self.frames
        return [call for frame in reversed(frames.stack) for call in frames.open_calls(frame)]

    def closing(self) -> list[Chunk]:
        """What closes the parts that are open, as an interrupted response leaves them."""
        text = [chunks.TextEnd(id=id) for id in sorted(self._open_text)]
        reasoning = [chunks.ReasoningEnd(id=id) for id in sorted(self._open_reasoning)]
        return [*text, *reasoning]

    def record(self, record: Record) -> None:
        """One record of the stored log."""
        head = record.head
        if head.mark is Mark.RESTORED:
            self.restart(head.turn)
        self.headless |= head.index != self.index
        if self.headless:
            self.index, self.suspensions = record.end, head.turn
            if head.mark is Mark.SUSPENDED:
                self.attempts = 0
        else:
            for event in log.split_events(record):
                self.emit(chunks.decode(event), head.audience)
            self.mark(head.mark)
        self.attempts += head.attempt != self.attempt
        self.attempt = head.attempt
        self.prev = record.seq

    def emit(self, chunk: Chunk, audience: Audience = Audience.ALL) -> None:
        """One event."""
        self.fold.apply(chunk)
        self.index += 1
        self.operations += audience is Audience.OPERATIONS
        self.v7 += audience is Audience.V7
        self.suspended = False
        self._run(chunk)
        self._parts(chunk)
        self._tools(chunk)

    def mark(self, mark: Mark) -> None:
        """What a batch said about the run."""
        match mark:
            case Mark.GENERATED:
                self.generated = True
            case Mark.CALLING:
                self.started = frozenset(
                    call.id
                    for call in self.open_calls
                    if call.id not in self.asked or self.asked[call.id] in self.answered
                )
            case Mark.SUSPENDED:
                self.suspensions += 1
                self.suspended = True
                self.restoring = False
                self.attempts = 0
            case Mark.ENDED:
                self.ended = True
            case Mark.RESTORED:
                self.restoring = True
            case Mark.NONE:
                pass

    def _run(self, chunk: Chunk) -> None:
        match chunk:
            case chunks.Start():
                self.opened, self.started = True, frozenset()
            case chunks.StartStep():
                self.steps += 1
                self.step_open, self.step_dirty, self.generated = True, False, False
                self.started = frozenset()
                self.frames.begin()
            case chunks.ResetStep():
                self.step_dirty, self.generated = False, False
                self.started = frozenset()
                self.frames.reset()
                self._open_text.clear()
                self._open_reasoning.clear()
            case chunks.FinishStep():
                self.step_open = False
            case chunks.Error(error_text=text):
                self.error = text
            case chunks.Abort():
                self.aborted = True
            case _:
                self.step_dirty = True

    def _parts(self, chunk: Chunk) -> None:
        match chunk:
            case chunks.TextStart(id=id):
                self._open_text.add(id)
            case chunks.TextEnd(id=id):
                self._open_text.discard(id)
            case chunks.ReasoningStart(id=id, provider_metadata=metadata):
                self._open_reasoning.add(id)
                self.frames.attribute(metadata)
            case chunks.ReasoningEnd(id=id):
                self._open_reasoning.discard(id)
            case _:
                pass

    def _tools(self, chunk: Chunk) -> None:
        match chunk:
            case (
                chunks.ToolInputAvailable(provider_executed=True)
                | chunks.ToolInputError(provider_executed=True)
            ):
                pass  # somebody else runs it
            case chunks.ToolInputAvailable(
                tool_call_id=id, tool_name=tool, input=input, provider_metadata=metadata
            ):
                self.frames.called(ToolCall(CallId(id), tool, input), metadata)
            case chunks.ToolInputError(
                tool_call_id=id, tool_name=tool, input=input, provider_metadata=metadata
            ):
                self.frames.called(ToolCall(CallId(id), tool, input), metadata)
                self.frames.resolved(CallId(id), done=False)
            case chunks.ToolApprovalRequest(approval_id=approval, tool_call_id=id):
                self.asked[CallId(id)] = ApprovalId(approval)
                self.questions += 1
            case chunks.ToolApprovalResponse(approval_id=approval):
                self.answered.add(ApprovalId(approval))
            case chunks.ToolOutputAvailable(tool_call_id=id, preliminary=preliminary):
                if preliminary is not True:
                    self.frames.resolved(CallId(id), done=True)
            case chunks.ToolOutputError(tool_call_id=id) | chunks.ToolOutputDenied(tool_call_id=id):
                self.frames.resolved(CallId(id), done=False)
            case _:
                pass


def usage_of(message: UIMessage) -> Mapping[str, int]:
    """The usage that earlier steps of a message have recorded in its metadata."""
    metadata = message.get("metadata")
    usage = metadata.get("usage") if isinstance(metadata, dict) else None
    return usage if isinstance(usage, dict) else {}
