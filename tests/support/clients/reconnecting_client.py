"""A client that loses its connection again and again and resumes at another gateway."""

from collections.abc import Callable, Sequence
from http import HTTPStatus
from random import Random

import aiohttp
import msgspec

COMMENT = b":"
END = b"\n\n"
DONE = b"data: [DONE]\n\n"

type Ask = tuple[dict[str, str], dict[str, str]]
"""Headers and query parameters of a GET."""
type Position = Callable[[list[bytes]], Ask]
"""Where a client is that has seen these frames."""


def split_frames(raw: bytes) -> list[bytes]:
    """The complete frames in these bytes, without comments."""
    return [block + END for block in raw.split(END)[:-1] if not block.startswith(COMMENT)]


def without_comments(raw: bytes) -> bytes:
    return b"".join(split_frames(raw))


def cursor_of(block: bytes) -> str:
    return block.split(b"\n", 1)[0].removeprefix(b"id: ").decode()


def by_header(seen: list[bytes]) -> Ask:
    return {"Last-Event-ID": cursor_of(seen[-1])}, {}


def by_query(seen: list[bytes]) -> Ask:
    return {}, {"cursor": cursor_of(seen[-1])}


def by_count_header(seen: list[bytes]) -> Ask:
    return {"x-stream-start-index": str(len(seen))}, {}


def by_count(seen: list[bytes]) -> Ask:
    return {}, {"startIndex": str(len(seen))}


def by_last_index(seen: list[bytes]) -> Ask:
    return {}, {"afterIdx": str(len(seen) - 1)}


CURSORS: Sequence[Position] = (by_header, by_query)
COUNTS: Sequence[Position] = (by_count_header, by_count, by_last_index)


class Viewer(msgspec.Struct):
    """Reads a session's run from one gateway after the other, at most `step` events from each."""

    http: aiohttp.ClientSession
    gateways: Sequence[str]
    session: str
    random: Random
    events_max: int = 6
    seen: list[bytes] = []
    cuts: int = 0

    @property
    def raw(self) -> bytes:
        """The bytes received, without comments and without unfinished frames before a cut."""
        return b"".join(self.seen)

    @property
    def complete(self) -> bool:
        return bool(self.seen) and self.seen[-1] == DONE

    async def watch(self) -> None:
        """Read to the end, with a cut after a random number of events each time."""
        while not self.complete:
            await self.connect(self.random.randint(0, self.events_max))

    async def connect(self, events: int | None = None, asks: Sequence[Position] = ()) -> None:
        """Resume at the next gateway, read `events` more (or to the end), and close the socket."""
        base = self.gateways[self.cuts % len(self.gateways)]
        headers, query = self.random.choice(asks or ((*CURSORS, *COUNTS) if self.seen else COUNTS))(self.seen)
        url = f"{base}/api/chat/{self.session}/stream"
        async with self.http.get(url, headers=headers, params=query) as response:
            if response.status == HTTPStatus.SERVICE_UNAVAILABLE:
                return  # the broker is slow; as a client does, the viewer tries again
            if response.status == HTTPStatus.NO_CONTENT and "startIndex" not in query | headers:
                self.seen.append(DONE)  # the run has ended with the last event
                return
            assert response.status == HTTPStatus.OK, (headers, query, await response.text())
            goal = None if events is None else len(self.seen) + events
            await self._read(response, goal)
            if not self.complete:
                response.close()
                self.cuts += 1

    async def _read(self, response: aiohttp.ClientResponse, goal: int | None) -> None:
        rest = b""
        while goal is None or len(self.seen) < goal:
            received = await response.content.readany()
            if not received:
                return
            *_, tail = (rest + received).split(END)
            fresh = split_frames(rest + received)
            self.seen += fresh if goal is None else fresh[: goal - len(self.seen)]
            rest = tail
