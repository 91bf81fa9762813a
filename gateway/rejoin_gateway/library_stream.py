"""An answer as the library returns it: bytes of a response, typed events, its text or its typed output."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, overload

import msgspec
from msgspec import UNSET

from rejoin_gateway.http.response import stream_headers
from rejoin_gateway.streaming.replay import Replay
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.events.typed_output import OutputReader
from rejoin_protocol.json_types import from_json
from rejoin_protocol.log import sse


class Stream:
    """An answer as server-sent events. Iterate once: over the bytes of a response, or over `chunks()`.
    The run continues if the iteration ends.

    `run` is the run's id; `headers` belong to the response. If the iteration raises, break the connection: a
    client takes a clean end for a complete answer.
    """

    def __init__(self, replay: Replay) -> None:
        self._replay = msgspec.structs.replace(replay, shows_answers=True)
        self.run: str = replay.run.id
        self.cursor: str | None = None
        """The position of the newest event of `chunks()`, for `ChatSession.stream`."""
        self.headers: Mapping[str, str] = stream_headers(replay)

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        async with self._replay.open() as frames, aclosing(frames):
            async for frame in frames:
                yield frame

    async def chunks(self) -> AsyncGenerator[Chunk]:
        """The events, as structs of `rejoin_protocol.events.chunks`. Raises as the iteration over bytes."""
        parser = sse.SseParser()
        async with aclosing(aiter(self)) as written:
            async for data in written:
                for frame in parser.feed(data):
                    self.cursor = frame.id or self.cursor
                    if frame.data != sse.DONE_DATA:
                        yield chunks.decode(frame.data)

    async def text(self) -> str:
        """Read to the end. Returns the text, without that of steps that were withdrawn."""
        pieces: list[str] = []
        step_start = 0
        async with aclosing(self.chunks()) as events:
            async for event in events:
                match event:
                    case chunks.TextDelta(delta=delta):
                        pieces.append(delta)
                    case chunks.StartStep():
                        step_start = len(pieces)
                    case chunks.ResetStep():
                        del pieces[step_start:]
                    case _:
                        pass
        return "".join(pieces)

    @overload
    async def output(self) -> Any: ...
    @overload
    async def output[T](self, type: type[T]) -> T: ...
    async def output(self, type: Any = None) -> Any:
        """Read to the end. Returns the typed answer of an agent with an `output`: as an instance of `type`,
        or as JSON values.

        Raises `NoOutput` if the answer ends without one: the run failed, was interrupted, or waits for a
        person. Raises `msgspec.ValidationError` if the answer does not fit `type`, and as the iteration.
        """
        reader = OutputReader()
        async with aclosing(self.chunks()) as events:
            async for chunk in events:
                reader.apply(chunk)
        if reader.whole_value is UNSET:
            raise NoOutput(reader.error or "the answer has no output")
        return reader.whole_value if type is None else from_json(reader.whole_value, type)


class NoOutput(Exception):
    """An answer has ended without a typed output. The text says why."""
