"""`output_port.CallOutput` for a real run: one call's output to the log, open until the call returns.

A thread that cannot be stopped, or a task that a tool leaves behind, finds the output closed. Otherwise its
events would follow the call's result, at a place in the log that no reader expects.
"""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import stamina

from rejoin_adapters.store_types import Artifact
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.ids import CallId
from rejoin_protocol.log.record import Audience
from rejoin_runner.output.journal import EventTooLarge
from rejoin_runner.run.attempt import Attempt
from rejoin_runner.tools.output_port import NewArtifact

STORE_TIMEOUT_S = 30.0
"""A call waits this long for a database that is away; then `store_artifact` raises `Unavailable`."""


class CallEnded(RuntimeError):
    """The call has returned or was interrupted: its output is closed."""


class LoggedCallOutput:
    """The output of one tool call, or of a custom loop if `call` is None. All methods of `CallOutput` raise
    `CallEnded` once it is closed, except `now_ms`.
    """

    def __init__(self, attempt: Attempt, call: CallId | None = None) -> None:
        self._attempt = attempt
        self._call = call
        self._counts: Counter[str] = Counter()
        self._closed = False
        self.agent = attempt.agent.name
        self.run = attempt.run.id
        self.status_audience = attempt.run.operation_set.audience_of("status_update")

    def close(self) -> None:
        """Refuse all output from now on."""
        self._closed = True

    async def emit(self, chunk: Chunk, audience: Audience = Audience.ALL) -> None:
        """See `CallOutput`."""
        self._check_open()
        if self._attempt.journal.is_full():
            raise EventTooLarge("the answer is too large: it takes no further output")
        await self._attempt.writer.write_between_texts(chunk, audience)

    async def show_preliminary(self, output: Any) -> None:
        """See `CallOutput`. Does nothing for a custom loop."""
        self._check_open()
        if self._call is not None:
            chunk = chunks.ToolOutputAvailable(tool_call_id=self._call, output=output, preliminary=True)
            await self._attempt.emit(chunk)

    async def store_artifact(self, new: NewArtifact) -> None:
        """See `CallOutput`. Raises `Unavailable`, `Fenced` if the session is deleted, and `RuntimeError` if
        the runner has no artifact store.
        """
        self._check_open()
        artifacts, run = self._attempt.artifacts, self._attempt.run
        if artifacts is None:
            raise RuntimeError("this runner has no artifact store")
        created_at = datetime.fromtimestamp(self.now_ms() / 1_000, UTC)
        artifact = Artifact(
            new.id, run.session, run.id, new.type, new.name, new.preview, new.data, created_at
        )
        async for retry in stamina.retry_context(on=Unavailable, timeout=STORE_TIMEOUT_S, attempts=None):
            with retry:
                await artifacts.put(run.tenant, artifact)

    def next_number(self, kind: str) -> int:
        """See `CallOutput`."""
        self._check_open()
        number = self._counts[kind]
        self._counts[kind] += 1
        return number

    def now_ms(self) -> int:
        """See `CallOutput`."""
        return self._attempt.now_ms()

    def _check_open(self) -> None:
        if self._closed:
            raise CallEnded("the call has ended: it cannot emit anything more")
