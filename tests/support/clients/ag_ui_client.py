"""A client of the AG-UI wire: checks each event by `ag-ui-protocol`'s own types and by the rules of the npm
client (`verify.ts`), and keeps the thread's messages as that client does (`default.ts`).
"""

import copy
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec
from ag_ui.core import Event, RunAgentInput
from pydantic import TypeAdapter

from tests.support.system.local_system import LocalSystem, read_frames

type Json = Any
EVENTS: TypeAdapter[Any] = TypeAdapter(Event)
_OPENERS = {"TEXT_MESSAGE": "messageId", "TOOL_CALL": "toolCallId", "STEP": "stepName"}
_REASONING = {"REASONING_MESSAGE": "messageId", "REASONING": "messageId"}


class BadEvent(AssertionError):
    """An event that the npm client refuses."""


class Thread:
    """The messages of a thread. Feed it the events of its runs."""

    def __init__(self) -> None:
        self.messages: list[Json] = []
        self.finished: Json = None
        """The last event of the newest run."""
        self._open: set[tuple[str, str]] = set()
        self._is_running = False

    def begin(self) -> None:
        """A new connection begins: what was open on the one before is forgotten."""
        self._is_running = False
        self._open.clear()

    def apply(self, event: Json) -> None:
        """Take the next event. Raises `BadEvent`, and `ValidationError` for one that is not AG-UI's."""
        EVENTS.validate_python(event)
        kind = event["type"]
        if self._is_running == (kind == "RUN_STARTED"):
            raise BadEvent(event)
        self._check_order(event)
        self._apply(event)

    @property
    def texts(self) -> list[str]:
        """The messages as `role: content`."""
        return [f"{one['role']}: {one.get('content', '')}" for one in self.messages]

    def message(self, id: str) -> Json:
        """The message with this id; None if there is none."""
        return next((one for one in self.messages if one["id"] == id), None)

    def _check_order(self, event: Json) -> None:
        kind = event["type"]
        if kind in ("RUN_STARTED", "RUN_ERROR"):
            self._is_running = kind == "RUN_STARTED"
            self._open.clear()
        if kind == "RUN_FINISHED":
            self._is_running = False
            if self._open:
                raise BadEvent(event, self._open)
        group, _, moment = kind.rpartition("_")
        field = (_OPENERS | _REASONING).get(group)
        if field is None or moment == "RESULT":
            return
        entry = (group, event[field])
        if moment in ("START", "STARTED"):
            if entry in self._open:
                raise BadEvent(event)
            self._open.add(entry)
        elif entry not in self._open:
            raise BadEvent(event)
        elif moment in ("END", "FINISHED"):
            self._open.remove(entry)

    def _apply(self, event: Json) -> None:
        kind = event["type"]
        if kind in ("TEXT_MESSAGE_START", "REASONING_MESSAGE_START"):
            if self.message(event["messageId"]) is None:
                self.messages.append({"id": event["messageId"], "role": event["role"], "content": ""})
        elif kind in ("TEXT_MESSAGE_CONTENT", "REASONING_MESSAGE_CONTENT"):
            message = self.message(event["messageId"])
            message["content"] = message.get("content", "") + event["delta"]
        elif kind == "TOOL_CALL_START":
            self._start_call(event)
        elif kind == "TOOL_CALL_ARGS":
            self._call(event["toolCallId"])["function"]["arguments"] += event["delta"]
        elif kind == "TOOL_CALL_RESULT":
            self._add_result(event)
        elif kind == "MESSAGES_SNAPSHOT":
            self._take_snapshot(event["messages"])
        elif kind in ("RUN_FINISHED", "RUN_ERROR"):
            self.finished = event

    def _call(self, id: str) -> Json:
        return next(call for one in self.messages for call in one.get("toolCalls", ()) if call["id"] == id)

    def _start_call(self, event: Json) -> None:
        known = {call["id"] for one in self.messages for call in one.get("toolCalls", ())}
        if event["toolCallId"] in known:
            return
        parent: Json = self.message(event["parentMessageId"])
        if parent is None:
            parent = {"id": event["parentMessageId"], "role": "assistant"}
            self.messages.append(parent)
        function = {"name": event["toolCallName"], "arguments": ""}
        call = {"id": event["toolCallId"], "type": "function", "function": function}
        parent.setdefault("toolCalls", []).append(call)

    def _add_result(self, event: Json) -> None:
        call = event["toolCallId"]
        message = {"id": event["messageId"], "toolCallId": call, "role": "tool", "content": event["content"]}
        owners = [
            at
            for at, one in enumerate(self.messages)
            if any(known["id"] == call for known in one.get("toolCalls", ()))
        ]
        at = owners[0] + 1 if owners else len(self.messages)
        while owners and at < len(self.messages) and self.messages[at]["role"] == "tool":
            at += 1
        self.messages.insert(at, message)

    def _take_snapshot(self, messages: list[Json]) -> None:
        ids: dict[str, Json] = {one["id"]: one for one in messages}
        keeps_reasoning = not any(one["role"] == "reasoning" for one in messages)
        kept: list[Json] = [
            ids.get(one["id"], one)
            for one in self.messages
            if one["id"] in ids or (keeps_reasoning and one["role"] == "reasoning")
        ]
        known = {one["id"] for one in kept}
        self.messages = [*kept, *(one for one in messages if one["id"] not in known)]


class AgUiRun(msgspec.Struct):
    """What came of one request: `raw` are the frames without comments, `events` what they say."""

    status: int
    headers: dict[str, str]
    raw: list[bytes] = []
    events: list[Json] = []
    ids: list[str] = []
    problem: Json = None

    @property
    def text(self) -> str:
        """All text, joined."""
        return "".join(one["delta"] for one in self.events if one["type"] == "TEXT_MESSAGE_CONTENT")

    @property
    def outcome(self) -> Json:
        """The outcome of the run."""
        return self.events[-1]["outcome"]

    def of(self, kind: str) -> list[Json]:
        """The events of a type."""
        return [one for one in self.events if one["type"] == kind]


class AgUiClient:
    """Runs an agent at a gateway, in one thread; each request is checked by `RunAgentInput`."""

    def __init__(self, system: LocalSystem, base: str, thread: str, agent: str | None = None) -> None:
        self.system = system
        self.base = base
        self.id = thread
        self.path = f"/ag-ui/{agent or system.agent}"
        self.thread = Thread()
        self.headers: dict[str, str] = {}

    def at(self, base: str) -> "AgUiClient":
        """The same client at another gateway."""
        other = AgUiClient(self.system, base, self.id)
        other.path, other.thread, other.headers = self.path, self.thread, self.headers
        return other

    def body(self, run: str, **fields: Json) -> Json:
        """A request as `HttpAgent` makes it."""
        body = {
            "threadId": self.id,
            "runId": run,
            "protocolVersion": "1.0",
            "tools": [],
            "context": [],
            "forwardedProps": {},
            "state": {},
            "messages": copy.deepcopy(self.thread.messages),
        }
        body |= fields
        RunAgentInput.model_validate(body)
        return body

    def say(self, text: str, id: str | None = None) -> str:
        """Add a user's message to the thread; its id."""
        message = {"id": id or self.system.fresh("m"), "role": "user", "content": text}
        self.thread.messages.append(message)
        return str(message["id"])

    async def run(self, run: str | None = None, **fields: Json) -> AgUiRun:
        """Run the agent and take its events."""
        return await self.post(self.body(run or self.system.fresh("r"), **fields))

    async def post(
        self, body: Json, after: str | None = None, until: Callable[[Json], bool] = lambda _: False
    ) -> AgUiRun:
        """Send a request, and take its events up to the first for which `until` is true."""
        if after is None:
            self.thread.begin()
        ask = self.system.http.post(self.base + self.path, json=body, headers=self._headers(after))
        async with ask as response:
            return await self._read(response, until, checks=after is None)

    async def get(self, path: str, after: str | None = None, **query: str) -> AgUiRun:
        """GET a run or a thread, without a change of the client's own thread."""
        url = f"{self.base}{self.path}/{path}"
        ask = self.system.http.get(url, headers=self._headers(after), params=query)
        async with ask as response:
            return await self._read(response, lambda _: False, checks=False)

    def _headers(self, after: str | None) -> dict[str, str]:
        return self.headers | ({} if after is None else {"Last-Event-ID": after})

    async def _read(
        self, response: aiohttp.ClientResponse, until: Callable[[Json], bool], *, checks: bool
    ) -> AgUiRun:
        run = AgUiRun(
            response.status, {key.lower(): one for key, one in response.headers.items()}, [], [], []
        )
        if response.status != 200:
            run.problem = msgspec.json.decode(await response.read())
            return run
        async for frame in read_frames(response):
            event = msgspec.json.decode(frame.data)
            run.events.append(event)
            run.ids.append(frame.id)
            run.raw.append(b"id: %b\ndata: %b\n\n" % (frame.id.encode(), frame.data))
            if checks:
                self.thread.apply(event)
            if until(event):
                return run
        return run
