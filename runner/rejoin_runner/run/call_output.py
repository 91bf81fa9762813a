"""`context.Voice` over an attempt: the way of one call to the log, closed when the call is over.

A thread that nobody can stop, or a task that a tool left behind, finds it closed: what a call says after its
result would stand at a place that nobody chose.
"""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import stamina
from rejoin_adapters.records import Artifact
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.ids import CallId
from rejoin_protocol.log.record import Audience

from rejoin_runner.run.attempt import Attempt
from rejoin_runner.tools.output_port import NewArtifact

STORE_TIMEOUT_S = 30.0
"""How long a call waits for a database that is away, before that is the call's failure."""


class CallEnded(RuntimeError):
    """The call has its result, or was interrupted: nothing can be said any more."""


class LoggedCallOutput:
    """See the module. `call` None: an application's own loop speaks."""

    def __init__(self, attempt: Attempt, call: CallId | None = None) -> None:
        self._attempt = attempt
        self._call = call
        self._counts: Counter[str] = Counter()
        self._over = False
        self.agent = attempt.agent.name

    def close(self) -> None:
        """The call is over."""
        self._over = True

    async def emit(self, chunk: Chunk, audience: Audience = Audience.ALL) -> None:
        """See `context.Voice`."""
        self._check()
        await self._attempt.writer.write_between_texts(chunk, audience)

    async def show_preliminary(self, output: Any) -> None:
        """See `context.Voice`."""
        self._check()
        if self._call is not None:
            shown = chunks.ToolOutputAvailable(tool_call_id=self._call, output=output, preliminary=True)
            await self._attempt.emit(shown)

    async def store_artifact(self, new: NewArtifact) -> None:
        """See `context.Voice`."""
        self._check()
        artifacts, run = self._attempt.artifacts, self._attempt.run
        if artifacts is None:
            raise RuntimeError("this runner has no place for artifacts")
        created_at = datetime.fromtimestamp(self.now_ms() / 1_000, UTC)
        artifact = Artifact(
            new.id, run.session, run.id, new.type, new.name, new.preview, new.data, created_at
        )
        async for retry in stamina.retry_context(on=Unavailable, timeout=STORE_TIMEOUT_S, attempts=None):
            with retry:
                await artifacts.put(run.tenant, artifact)

    def next_number(self, kind: str) -> int:
        """See `context.Voice`."""
        self._check()
        number = self._counts[kind]
        self._counts[kind] += 1
        return number

    def now_ms(self) -> int:
        """See `context.Voice`."""
        return self._attempt.now_ms()

    def _check(self) -> None:
        if self._over:
            raise CallEnded("the call is over: nothing can be said any more")
