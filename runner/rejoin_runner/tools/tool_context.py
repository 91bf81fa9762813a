"""What a tool, instructions or a custom loop know about their run, and what they may emit besides a result.

Owns the shapes of the emitted data parts (AI SDK `data-…` parts) and checks them before they reach the log. A
wrong use, such as a bad name or an empty component, raises `ValueError` for the developer and emits nothing.
"""

import asyncio
import hashlib
import re
from collections.abc import Coroutine, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET

from rejoin_protocol.events.chunks import DATA_PREFIX, Data
from rejoin_protocol.events.typed_output import DATA_NAMES
from rejoin_protocol.ids import CallId, RunId, SessionId
from rejoin_protocol.json_types import to_json
from rejoin_protocol.limits import ARTIFACT_BYTES_MAX
from rejoin_protocol.log.record import Audience
from rejoin_runner.tools.output_port import CallOutput, NewArtifact

STATUS_CHARS_MAX = 1_000
RESERVED = frozenset({"operation", "summary", "artifact", "component", "status"}) | DATA_NAMES
_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")


class CallApproval(msgspec.Struct, frozen=True):
    """How a person approved a tool call.

    Attributes:
        id: The approval's id.
        by: Who approved: the user's id, or else the credential (`key …`). None: the application did not say.
        at: When.
        reason: What the person wrote.
        shown_input: The arguments that the model chose, if the person has changed them. None: the call runs
            with them.
    """

    id: str
    by: str | None
    at: datetime
    reason: str | None = None
    shown_input: dict[str, Any] | None = None


class RunContext[C](msgspec.Struct, frozen=True):
    """What a function gets that makes an agent's instructions.

    Attributes:
        run: The run's id.
        session: The session's id.
        agent: The agent's name.
        context: The application's own context of the request, an instance of the agent's `context` type.
    """

    run: RunId
    session: SessionId
    agent: str
    context: C


class OutputContext(msgspec.Struct, frozen=True, kw_only=True):
    """What tools and custom loops may emit. While a text is open, a part appears behind that text."""

    output: CallOutput | None = None
    """Set by the runner; None where no call is being made, as in `needs_approval`."""

    @property
    def _call_output(self) -> CallOutput:
        if self.output is None:
            raise RuntimeError("nothing can be emitted before the call is made")
        return self.output

    @property
    def _id_prefix(self) -> str:
        """The beginning of generated ids: the same for every attempt, so that a retry makes the same ids."""
        raise NotImplementedError

    async def emit_component(self, name: str, props: dict[str, Any], *, id: str | None = None) -> str:
        """Show a UI component: the part `data-component {id, name, props}`.

        Returns the id. A component with the same `id` replaces the earlier one. Raises `ValueError` if the
        name or the props are empty.
        """
        if not name or not props:
            raise ValueError("a component has a name and props")
        component_id = id or f"{self._id_prefix}-{self._call_output.next_number('component')}"
        data = {"id": component_id, "name": name, "props": props}
        await self._emit_data_part("component", data, component_id)
        return component_id

    async def emit_artifact(
        self, *, type: str, name: str, data: Any, preview: Sequence[str] = (), summary: str | None = None
    ) -> str:
        """Store `data` as an artifact and show it: the part `data-artifact`.

        `data` is JSON of up to 16 MiB. `preview` names the fields of it that the part shows; `summary` is a
        sentence for people. Returns the id by which clients fetch the complete data. A call that is retried
        after a crash makes the same ids again and stores nothing twice.
        Raises `ValueError` if the data is too large or lacks a field of `preview`.
        """
        raw = to_json(data)
        if len(raw) > ARTIFACT_BYTES_MAX:
            raise ValueError(f"an artifact has at most {ARTIFACT_BYTES_MAX} bytes as JSON, not {len(raw)}")
        plain = msgspec.json.decode(raw)
        if preview and not isinstance(plain, dict):
            raise ValueError("only an object has fields to preview")
        if missing := [field for field in preview if field not in plain]:
            raise ValueError(f"the artifact has no field {', '.join(missing)}")
        number = self._call_output.next_number("artifact")
        id = f"art_{hashlib.sha256(f'{self._id_prefix}:{number}'.encode()).hexdigest()[:24]}"
        previewed = {field: plain[field] for field in preview}
        await self._call_output.store_artifact(NewArtifact(id, type, name, previewed, plain))
        run = self._call_output.run
        part = {
            "artifactId": id,
            "artifact_id": id,  # clients of the run API read this name, or the one above
            "task_id": run,
            "type": type,
            "name": name,
            "summary": previewed,
            "artifactSummary": previewed,
        }
        if summary is not None:
            part["description"] = summary
        await self._emit_data_part("artifact", part, id)
        saved = {"artifactId": id, "taskId": run, "artifactType": type, "summaryData": previewed}
        await self.emit_operation("artifact_saved", f"Saved {name}", saved)
        return id

    async def emit_summary(self, label: str, details: dict[str, Any] | None = None) -> None:
        """Show the progress of the run: the part `data-summary {label, details?}`.

        Raises `ValueError` if the label is empty.
        """
        if not label.strip():
            raise ValueError("a summary has a label")
        data = {"label": label} | ({} if details is None else {"details": details})
        await self._emit_data_part("summary", data)
        await self._emit_progress(label, details)

    async def emit_operation(self, type: str, label: str, data: dict[str, Any] | None = None) -> None:
        """Show a detail to the clients that asked for operations: `data-operation {type, label, details}`.

        It is not part of the stored message.
        """
        part = build_operation(type, label, self._call_output.now_ms(), self._call_output.agent, data or {})
        await self._call_output.emit(part, Audience.OPERATIONS)

    async def emit_status(self, text: str, *, type: str = "thinking") -> None:
        """Show what is happening now: `data-status {type, status}`, up to 1,000 characters of `text`.

        `type` is a word for clients, `text` is for people. It is not part of the stored message.
        """
        label = text[:STATUS_CHARS_MAX]
        await self._emit_data_part("status", {"type": type, "status": label}, transient=True)
        await self._emit_progress(label)

    async def _emit_progress(self, label: str, details: Any = None) -> None:
        output = self._call_output
        await output.emit(build_status_update(label, output.agent, details), output.status_audience)

    async def emit_data(
        self, name: str, data: Any, *, id: str | None = None, transient: bool = False
    ) -> None:
        """Show a data part of the application's own: `data-<name>`.

        A part with the same name and `id` replaces the earlier one. A `transient` part is streamed but not
        part of the stored message. `name` has 1 to 64 lower-case letters, digits and `-`, and begins with a
        letter. Raises `ValueError` for another name, and for one that Rejoin uses itself.
        """
        if not _NAME.fullmatch(name) or name in RESERVED:
            raise ValueError(
                f"{name!r} is no name for data: lower case, and none of {', '.join(sorted(RESERVED))}"
            )
        await self._emit_data_part(name, data, id, transient=transient)

    async def _emit_data_part(
        self, name: str, data: Any, id: str | None = None, *, transient: bool = False
    ) -> None:
        await self._call_output.emit(
            Data(
                type=f"{DATA_PREFIX}{name}",
                data=data,
                id=UNSET if id is None else id,
                transient=True if transient else UNSET,
            )
        )


class ToolContext[C](OutputContext, frozen=True):
    """What a tool knows about its call besides the arguments. Its methods show things to the user.

    Attributes:
        run: The run's id.
        session: The session's id.
        call: The id of this tool call, unique in its run.
        context: The application's own context of the request, an instance of the agent's `context` type.
        user_data: The `data-…` parts of the user's message: what the page sends to tools and the model does
            not see.
        approval: How a person approved this call. None: it needed no approval, or it is not decided yet.
    """

    run: RunId
    session: SessionId
    call: CallId
    context: C
    user_data: Sequence[dict[str, Any]] = ()
    approval: CallApproval | None = None

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this call, and for no other call. For example for a payment API."""
        return f"{self.run}:{self.call}"

    @property
    def _id_prefix(self) -> str:
        return self.idempotency_key


class SyncToolContext[C]:
    """`ToolContext` for a plain function, which runs in a thread. Each method waits until its part is in the
    run's output.
    """

    def __init__(self, context: ToolContext[C], loop: asyncio.AbstractEventLoop) -> None:
        self._context = context
        self._loop = loop
        self.run = context.run
        self.session = context.session
        self.call = context.call
        self.context = context.context
        self.user_data = context.user_data
        self.approval = context.approval
        self.idempotency_key = context.idempotency_key

    def _wait[T](self, emission: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(emission, self._loop).result()

    def emit_component(self, name: str, props: dict[str, Any], *, id: str | None = None) -> str:
        """See `ToolContext.emit_component`."""
        return self._wait(self._context.emit_component(name, props, id=id))

    def emit_artifact(
        self, *, type: str, name: str, data: Any, preview: Sequence[str] = (), summary: str | None = None
    ) -> str:
        """See `ToolContext.emit_artifact`."""
        return self._wait(
            self._context.emit_artifact(type=type, name=name, data=data, preview=preview, summary=summary)
        )

    def emit_summary(self, label: str, details: dict[str, Any] | None = None) -> None:
        """See `ToolContext.emit_summary`."""
        self._wait(self._context.emit_summary(label, details))

    def emit_operation(self, type: str, label: str, data: dict[str, Any] | None = None) -> None:
        """See `ToolContext.emit_operation`."""
        self._wait(self._context.emit_operation(type, label, data))

    def emit_status(self, text: str, *, type: str = "thinking") -> None:
        """See `ToolContext.emit_status`."""
        self._wait(self._context.emit_status(text, type=type))

    def emit_data(self, name: str, data: Any, *, id: str | None = None, transient: bool = False) -> None:
        """See `ToolContext.emit_data`."""
        self._wait(self._context.emit_data(name, data, id=id, transient=transient))


def build_operation(type: str, label: str, now_ms: int, agent: str, data: dict[str, Any]) -> Data:
    """The part `data-operation`. Transient: clients with and without operations get the same history."""
    details = {"timestamp": now_ms, "subAgentId": agent, "data": data}
    return Data(
        type="data-operation", data={"type": type, "label": label, "details": details}, transient=True
    )


def build_status_update(label: str, agent: str, details: Any = None) -> Data:
    """The operation `status_update`, for clients of the graph API. Transient, as all operations."""
    more = details if isinstance(details, dict) else {} if details is None else {"summary": details}
    context = {"agent": agent, **more}
    data = {"type": "status_update", "label": label, "ctx": context, "details": context}
    return Data(type="data-operation", data=data, transient=True)
