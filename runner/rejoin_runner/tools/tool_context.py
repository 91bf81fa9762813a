"""What a tool, or an application's own loop, is told, and what it may say besides its result.

Owns the shapes of what is said: data parts of the AI SDK, checked before anybody hears them. A wrong use (a
bad name, an empty component) is a `ValueError` for the developer; nothing of it is said.
"""

import asyncio
import hashlib
import re
from collections.abc import Coroutine, Sequence
from typing import Any

import msgspec
from msgspec import UNSET
from rejoin_protocol.events.chunks import DATA_PREFIX, Data
from rejoin_protocol.ids import CallId, RunId, SessionId
from rejoin_protocol.log.record import Audience

from rejoin_runner.tools.output_port import CallOutput, NewArtifact

ARTIFACT_BYTES_MAX = 16 * 1024 * 1024
STATUS_CHARS_MAX = 1_000
RESERVED = frozenset({"operation", "summary", "artifact", "component", "status"})
_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")


class RunContext[C](msgspec.Struct, frozen=True):
    """What instructions are made of, where a function makes them."""

    run: RunId
    session: SessionId
    agent: str
    context: C


class OutputContext(msgspec.Struct, frozen=True, kw_only=True):
    """Who may say something. What is said while a text is open stands behind that text."""

    output: CallOutput | None = None

    @property
    def _call_output(self) -> CallOutput:
        if self.output is None:
            raise RuntimeError("nothing can be said before the call is made")
        return self.output

    @property
    def _source(self) -> str:
        """What the ids of what is made begin with: the same for every attempt."""
        raise NotImplementedError

    async def emit_component(self, name: str, props: dict[str, Any], *, id: str | None = None) -> str:
        """Show a component, whole: `data-component {id, name, props}`. Returns the id, by which another one
        replaces it.
        """
        if not name or not props:
            raise ValueError("a component has a name and props")
        own = id or f"{self._source}-{self._call_output.next_number('component')}"
        await self._data("component", {"id": own, "name": name, "props": props}, own)
        return own

    async def emit_artifact(
        self, *, type: str, name: str, data: Any, preview: Sequence[str] = (), summary: str | None = None
    ) -> str:
        """Store `data` (JSON, up to 16 MiB) and show `data-artifact` with the fields that `preview` names.

        `summary` is a sentence for people. Returns the id by which the whole is fetched. A call that is made
        again after a crash stores nothing twice: its first artifact is its first artifact.
        """
        raw = msgspec.json.encode(data)
        if len(raw) > ARTIFACT_BYTES_MAX:
            raise ValueError(f"an artifact holds up to {ARTIFACT_BYTES_MAX // 1024**2} MiB")
        plain = msgspec.json.decode(raw)
        if preview and not isinstance(plain, dict):
            raise ValueError("only an object has fields to preview")
        if missing := [field for field in preview if field not in plain]:
            raise ValueError(f"the artifact has no field {', '.join(missing)}")
        number = self._call_output.next_number("artifact")
        id = f"art_{hashlib.sha256(f'{self._source}:{number}'.encode()).hexdigest()[:24]}"
        shown = {field: plain[field] for field in preview}
        await self._call_output.store_artifact(NewArtifact(id, type, name, shown, plain))
        said = {"artifactId": id, "type": type, "name": name, "artifactSummary": shown}
        if summary is not None:
            said["description"] = summary
        await self._data("artifact", said, id)
        await self.emit_operation("artifact_saved", f"Saved {name}", {"artifactId": id, "artifactType": type})
        return id

    async def emit_summary(self, label: str, details: dict[str, Any] | None = None) -> None:
        """Tell people how far it is: `data-summary {label, details?}`."""
        if not label.strip():
            raise ValueError("a summary has a label")
        await self._data("summary", {"label": label} | ({} if details is None else {"details": details}))

    async def emit_operation(self, type: str, label: str, data: dict[str, Any] | None = None) -> None:
        """Tell those who asked for operations: `data-operation {type, label, details}`; no history has it."""
        said = build_operation(type, label, self._call_output.now_ms(), self._call_output.agent, data or {})
        await self._call_output.emit(said, Audience.OPERATIONS)

    async def emit_status(self, text: str) -> None:
        """Show what is going on at the moment, `data-status {status}`: no history has it."""
        await self._data("status", {"status": text[:STATUS_CHARS_MAX]}, transient=True)

    async def emit_data(
        self, name: str, data: Any, *, id: str | None = None, transient: bool = False
    ) -> None:
        """A data part of your own, `data-<name>`. The same `id` replaces it; what is `transient` is in no
        history.
        """
        if not _NAME.fullmatch(name) or name in RESERVED:
            raise ValueError(
                f"{name!r} is no name for data: lower case, and none of {', '.join(sorted(RESERVED))}"
            )
        await self._data(name, data, id, transient=transient)

    async def _data(self, name: str, data: Any, id: str | None = None, *, transient: bool = False) -> None:
        await self._call_output.emit(
            Data(
                type=f"{DATA_PREFIX}{name}",
                data=data,
                id=UNSET if id is None else id,
                transient=True if transient else UNSET,
            )
        )


class ToolContext[C](OutputContext, frozen=True):
    """What a tool knows besides its arguments. `context` is the application's own, validated."""

    run: RunId
    session: SessionId
    call: CallId
    context: C

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this call, and for no other call."""
        return f"{self.run}:{self.call}"

    @property
    def _source(self) -> str:
        return self.idempotency_key


class SyncToolContext[C]:
    """`ToolContext` for a plain function, which runs in a thread: what it says, it says before it goes on."""

    def __init__(self, context: ToolContext[C], loop: asyncio.AbstractEventLoop) -> None:
        self._own = context
        self._loop = loop
        self.run = context.run
        self.session = context.session
        self.call = context.call
        self.context = context.context
        self.idempotency_key = context.idempotency_key

    def _wait[T](self, said: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(said, self._loop).result()

    def emit_component(self, name: str, props: dict[str, Any], *, id: str | None = None) -> str:
        """See `ToolContext`."""
        return self._wait(self._own.emit_component(name, props, id=id))

    def emit_artifact(
        self, *, type: str, name: str, data: Any, preview: Sequence[str] = (), summary: str | None = None
    ) -> str:
        """See `ToolContext`."""
        return self._wait(
            self._own.emit_artifact(type=type, name=name, data=data, preview=preview, summary=summary)
        )

    def emit_summary(self, label: str, details: dict[str, Any] | None = None) -> None:
        """See `ToolContext`."""
        self._wait(self._own.emit_summary(label, details))

    def emit_operation(self, type: str, label: str, data: dict[str, Any] | None = None) -> None:
        """See `ToolContext`."""
        self._wait(self._own.emit_operation(type, label, data))

    def emit_status(self, text: str) -> None:
        """See `ToolContext`."""
        self._wait(self._own.emit_status(text))

    def emit_data(self, name: str, data: Any, *, id: str | None = None, transient: bool = False) -> None:
        """See `ToolContext`."""
        self._wait(self._own.emit_data(name, data, id=id, transient=transient))


def build_operation(type: str, label: str, now_ms: int, agent: str, data: dict[str, Any]) -> Data:
    """A detailed operation. Transient: who did not ask for it and who did have the same history."""
    details = {"timestamp": now_ms, "subAgentId": agent, "data": data}
    return Data(
        type="data-operation", data={"type": type, "label": label, "details": details}, transient=True
    )
