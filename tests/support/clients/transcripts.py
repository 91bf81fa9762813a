"""What was sent and what came back, as text: with names instead of what is different each time.

A transcript is compared with the one in `golden/`. Where there is none it is written, and the test fails
once: read it, and keep it if it is what the API promises.
"""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.clients.api_families import ApiClient, Json
from tests.support.system.local_system import DONE, Answer

GOLDEN = Path(__file__).parents[2] / "api" / "golden"
HEADERS = ("content-type", "cache-control", "connection", "x-accel-buffering", "retry-after")
HIDDEN = {"x-request-id", "x-content-type-options", "x-workflow-stream-tail-index"}
IDS = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT[\d:.]+Z?(?:\+00:00)?)|(?P<ms>\b1[6-9]\d{11}\b)|(?P<agent>demo-[0-9a-f]{8}\b)"
    r"|(?P<run>run_[0-9a-z]{26})|(?P<approval>apr_[0-9a-z]{26}_\d+)|(?P<message>msg_[0-9a-z]{24,26})"
    r"|(?P<uuid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})|(?P<created>(?<=\"created\":)\d{10})"
)


class Transcript:
    """Talk through it, then `check` it."""

    def __init__(self, client: ApiClient) -> None:
        self._speaker = client
        self._lines: list[str] = []

    async def ask(self, method: str, path: str, body: Json = None, **headers: str) -> Answer:
        """One request and its answer."""
        answer = await self._speaker.ask(method, path, body, **headers)
        self._lines.append(f"> {method} {path}")
        self._lines += [f"> {name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body is not None:
            self._lines.append(f"> {_json(body)}")
        self._lines.append(f"< {answer.status}")
        shown = sorted(name for name in answer.headers if name in HEADERS or _own(name))
        self._lines += [f"< {name}: {answer.headers[name]}" for name in shown]
        self._lines += [f"< {line}" for line in _body(answer)]
        self._lines.append("")
        return answer

    @property
    def text(self) -> str:
        """All of it."""
        return _named("\n".join(self._lines))

    def check(self, name: str) -> None:
        """Compare with the golden one."""
        found = self.text
        path = GOLDEN / f"{name}.txt"
        if not path.exists():
            path.write_text(found, encoding="utf-8")
            pytest.fail(f"{path.name} was written: read it, and run again")
        assert found == path.read_text(encoding="utf-8"), "if this is right, delete the file and run again"


def events(answer: Answer) -> str:
    """The events of an answer, with names in the place of values that differ from run to run."""
    return _named("\n".join(_json(chunk) for chunk in _merged(answer.chunks)))


def _own(name: str) -> bool:
    """Whether a header is a promise of the family, and does not depend on time."""
    return name.startswith("x-") and name not in HIDDEN


def _body(answer: Answer) -> list[str]:
    if answer.headers.get("content-type") != "text/event-stream":
        return [_json(answer.json)] if answer.raw else []
    ids = {bool(frame.id) for frame in answer.frames if frame.data != DONE}
    assert len(ids) < 2, "a stream has ids or has none"
    end = ["data: [DONE]"] if answer.complete else []
    return [f"data: {_json(chunk)}" for chunk in _merged(answer.chunks)] + end


def _merged(chunks: list[Json]) -> list[Json]:
    """Adjacent deltas of one part as one delta: their number depends on time."""
    merged: list[Json] = []
    for chunk in chunks:
        before = merged[-1] if merged else {}
        field = "delta" if "delta" in chunk else "inputTextDelta"
        if field in chunk and before.get("type") == chunk["type"]:
            merged[-1] = before | {field: before[field] + chunk[field]}
        else:
            merged.append(chunk)
    return merged


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _named(text: str) -> str:
    """Each id as a word and a number, in the order of their appearance."""
    known: dict[str, str] = {}
    counts: dict[str, int] = {}

    def name(found: re.Match[str]) -> str:
        kind = found.lastgroup or ""
        if kind in {"time", "ms", "created", "agent"}:
            return f"<{kind}>"
        if found[0] not in known:
            counts[kind] = counts.get(kind, 0) + 1
            known[found[0]] = f"<{kind} {counts[kind]}>"
        return known[found[0]]

    return IDS.sub(name, text)
