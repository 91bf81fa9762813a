"""The five route families and the AI SDK route, with one interface to send a message to each."""

import io
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from tests.support.models.agent_teams import Line
from tests.support.system.local_system import Answer, LocalSystem

type Json = Any
type Script = Mapping[str, Sequence[Sequence[Line]]]
"""What a model says or calls, by what it is asked and step."""


class Family(msgspec.Struct, frozen=True):
    """How a family takes a message. `path` may contain `{agent}` and `{session}`."""

    name: str
    path: str
    body: Callable[[str | None, str, str | None], Json]
    """Of session, text and message id."""
    plain: bool = False
    """Whether its errors are `{"error": "<text>"}`."""

    def __str__(self) -> str:
        return self.name


def _said(**fields: Json) -> Json:
    return {name: value for name, value in fields.items() if value is not None}


def _text(text: str) -> list[Json]:
    return [{"type": "text", "text": text}]


def _session(session: str | None, text: str, id: str | None) -> Json:
    del session
    return {"message": {"id": id, "role": "user", "parts": _text(text)} if id else text}


def _run(session: str | None, text: str, id: str | None) -> Json:
    return _said(conversationId=session, messages=[_said(role="user", content=text, id=id)])


def _parts(session: str | None, text: str, id: str | None) -> Json:
    return _said(threadId=session, messageId=id, parts=_text(text))


def _aisdk(session: str | None, text: str, id: str | None) -> Json:
    message = {"id": id or f"m-{uuid.uuid4()}", "role": "user", "parts": _text(text)}
    return _said(id=session, messages=[message], trigger="submit-message")


SESSION = Family("session", "/api/agents/{agent}/{session}", _session)
RUN = Family("run", "/run/api/chat", _run)
GRAPH = Family("graph", "/api/chat", _run)
PARTS = Family("parts", "/api/chat", _parts, plain=True)
AGENT_CHAT = Family("agent_chat", "/api/agent/chat/stream", _run, plain=True)
AISDK = Family("aisdk", "/api/chat", _aisdk)
FAMILIES = (SESSION, RUN, GRAPH, PARTS, AGENT_CHAT, AISDK)
NAMELESS = (RUN, GRAPH, PARTS, AGENT_CHAT, AISDK)
"""Those that need not name a session."""


class ApiClient(msgspec.Struct, frozen=True):
    """A client of one gateway."""

    system: LocalSystem
    base: str

    def session(self) -> str:
        """A new session name that every family accepts."""
        return str(uuid.uuid4())

    async def say(
        self, family: Family, session: str | None, text: str, *, id: str | None = None, **headers: str
    ) -> Answer:
        """Send a message and read the answer."""
        return await self.post(
            family.path.format(agent=self.system.agent, session=session),
            family.body(session, text, id),
            **headers,
        )

    async def post(self, path: str, body: Json = None, **headers: str) -> Answer:
        """POST JSON. In names of headers, `_` is written for `-`."""
        return await self.send(path, msgspec.json.encode(body), **headers)

    async def send(self, path: str, data: bytes, **headers: str) -> Answer:
        """POST bytes, which need not be JSON."""
        sent = {"content-type": "application/json"} | header_names(headers)
        async with self.system.http.post(self.base + path, data=io.BytesIO(data), headers=sent) as response:
            return await Answer.of(response)

    async def ask(self, method: str, path: str, body: Json = None, **headers: str) -> Answer:
        """Send a request with any method."""
        async with self.system.http.request(
            method, self.base + path, json=body, headers=header_names(headers)
        ) as response:
            return await Answer.of(response)

    async def get(self, path: str, **headers: str) -> Answer:
        """GET."""
        return await self.system.get(self.base + path, **header_names(headers))

    def at(self, session: str, rest: str = "") -> str:
        """A path of the session API."""
        return f"/api/agents/{self.system.agent}/{session}{rest}"

    async def messages(self, session: str) -> list[Json]:
        """The stored messages."""
        found: list[Json] = (await self.get(self.at(session))).json["messages"]
        return found

    async def texts(self, session: str) -> list[str]:
        """The stored messages as `role: text`."""
        return [
            f"{one['role']}: {' / '.join(part['text'] for part in one['parts'] if part['type'] == 'text')}"
            for one in await self.messages(session)
        ]

    async def question(self, session: str) -> Json:
        """The tool part of the last message that waits for an approval."""
        [part] = [
            part
            for part in (await self.messages(session))[-1]["parts"]
            if part.get("state") == "approval-requested"
        ]
        return part


def header_names(headers: dict[str, str]) -> dict[str, str]:
    """Header names from keyword names: `_` becomes `-`."""
    return {name.replace("_", "-"): value for name, value in headers.items()}


def with_decision(part: Json, *, approved: bool) -> Json:
    """A tool part as a client sends it back after the decision."""
    approval = part["approval"] | {"approved": approved}
    return part | {"state": "approval-responded", "approval": approval}


def error_text(answer: Answer, family: Family) -> str:
    """The text of an error response. Fails unless the response has the family's error format."""
    said = answer.json
    if family.plain:
        assert answer.headers["content-type"].startswith("application/json")
        assert isinstance(said["error"], str)
        return str(said["error"])
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert said["status"] == answer.status
    assert said["error"] == {"code": said["code"], "message": said["detail"]}
    return str(said["detail"])


def event_types(answer: Answer) -> list[str]:
    """The types of the events."""
    return [chunk["type"] for chunk in answer.chunks]
