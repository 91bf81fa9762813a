"""`RecordingToolContext`: a `ToolContext` for a test of a single tool."""

from typing import Any

import msgspec

from rejoin_protocol.events.chunks import Chunk, Data
from rejoin_protocol.ids import CallId, RunId, SessionId
from rejoin_protocol.log.record import Audience
from rejoin_runner.tools.output_port import NewArtifact
from rejoin_runner.tools.tool_context import ToolContext


class RecordedOutput:
    """A `CallOutput` that keeps what a tool emits."""

    agent = "test"
    run = RunId("run_test")
    status_audience = Audience.OPERATIONS

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.preliminary: list[Any] = []
        self.artifacts: list[NewArtifact] = []
        self._numbers: dict[str, int] = {}

    async def emit(self, chunk: Chunk, audience: Audience = Audience.ALL) -> None:
        """See `CallOutput`."""
        del audience
        self.chunks.append(chunk)

    async def show_preliminary(self, output: Any) -> None:
        """See `CallOutput`."""
        self.preliminary.append(output)

    async def store_artifact(self, artifact: NewArtifact) -> None:
        """See `CallOutput`."""
        self.artifacts.append(artifact)

    def next_number(self, kind: str) -> int:
        """See `CallOutput`."""
        self._numbers[kind] = self._numbers.get(kind, -1) + 1
        return self._numbers[kind]

    def now_ms(self) -> int:
        """See `CallOutput`. The time stands still."""
        return 0


class RecordingToolContext[C](ToolContext[C], frozen=True, kw_only=True):
    """A tool's context, which keeps what the tool emits.

    `RecordingToolContext(context=Tenant("acme"))`; for a tool without a context of the application
    `RecordingToolContext(context=None)`. Pass it to the tool: `await refund(ctx, number="A-17", cents=900)`
    calls the function as it is; `await refund.call({"number": "A-17", "cents": 900}, ctx)` checks the
    arguments first, as a runner does, and takes plain functions too.
    """

    run: RunId = RunId("run_test")
    session: SessionId = SessionId("session_test")
    call: CallId = CallId("call_test")
    output: RecordedOutput = msgspec.field(default_factory=RecordedOutput)

    def emitted(self, name: str) -> list[Any]:
        """The contents of the parts `data-<name>` that the tool has emitted: `emitted("status")`."""
        return [
            chunk.data
            for chunk in self.output.chunks
            if isinstance(chunk, Data) and chunk.type == f"data-{name}"
        ]

    @property
    def artifacts(self) -> list[NewArtifact]:
        """The artifacts that the tool has stored."""
        return self.output.artifacts

    @property
    def preliminary_results(self) -> list[Any]:
        """The values that the tool has yielded."""
        return self.output.preliminary
