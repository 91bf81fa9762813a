"""Processes that decode images: a few, each with a limit of memory and of CPU time, shared fairly by tenants.

An image that exceeds a limit ends its process, not the gateway; the next image gets a new one. What images
take that are decoded at the same time is bounded, so that the gateway's container holds it. A place is free
when the work is over: a caller who no longer waits takes the process with him. Processes start with the first
image and end when none has come for a while. Without the extra `images` every image is refused: none passes
that was not decoded.
"""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from rejoin_adapters.extras import is_installed, needs_extra
from rejoin_adapters.process.fair_share import FairShare
from rejoin_adapters.process.idle_pool import IdlePool
from rejoin_gateway.images.image_cost import check_cost
from rejoin_protocol.errors import Invalid, Unavailable
from rejoin_protocol.limits import (
    IMAGE_CPU_S_MAX,
    IMAGE_MEMORY_BYTES_MAX,
    IMAGE_WORKERS_MAX,
    IMAGES_MEMORY_BYTES_MAX,
    MIB,
)

PROCESS_BYTES = 160 * MIB
"""Address space of the interpreter, Pillow and the file itself."""
WAIT_S = 20.0
"""For a reply, by the clock: a busy machine gives a process less CPU time than it may use."""
IDLE_PROCESS_S = 30.0
DECODER = Path(__file__).with_name("decoder.py")
PROCESS_LIMITS = (str(IMAGE_MEMORY_BYTES_MAX + PROCESS_BYTES), str(IMAGE_CPU_S_MAX))

log = structlog.get_logger("rejoin.attachments")


class ImagePool:
    """The decoding processes of one gateway. Leaving the context ends them."""

    def __init__(self, workers_max: int = IMAGE_WORKERS_MAX) -> None:
        self._memory = FairShare(IMAGES_MEMORY_BYTES_MAX)
        self._places = FairShare(workers_max)
        self._idle = IdlePool[Process](IDLE_PROCESS_S, _close_input)
        self._can_decode = is_installed("PIL")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while (process := self._idle.take()) is not None:
            await _end(process)

    async def check(self, data: bytes, media_type: str, tenant: str) -> None:
        """Decode an image and drop it. Raises `Invalid` if it is damaged, takes too much or cannot be decoded
        here, and `Unavailable` if no process can be started.
        """
        if not self._can_decode:
            raise Invalid(f"this gateway takes no images: {needs_extra('it', 'images')}")
        cost = check_cost(data, media_type)
        memory = await self._memory.take(tenant, cost.memory_bytes)
        try:
            place = await self._places.take(tenant)
            try:
                problem = await self._decode(data, media_type)
            finally:
                place.release()
        finally:
            memory.release()
        if problem:
            raise Invalid(problem)

    async def _decode(self, data: bytes, media_type: str) -> str:
        process = await self._process()
        is_whole = False
        try:
            async with asyncio.timeout(WAIT_S):
                reply = await _ask(process, data, media_type)
            is_whole = reply.endswith(b"\n")
        except TimeoutError:
            reply = b""
        finally:
            if is_whole:
                self._idle.keep(process)
            else:
                await _end(process)
        if is_whole:
            return reply.decode().strip()
        log.warning(
            "image_decoder_ended", media_type=media_type, size_bytes=len(data), code=process.returncode
        )
        return f"the image takes too long to decode: at most {IMAGE_CPU_S_MAX} seconds, or too much memory"

    async def _process(self) -> Process:
        while (process := self._idle.take()) is not None:
            if process.returncode is None:
                return process
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-I", DECODER, *PROCESS_LIMITS, stdin=PIPE, stdout=PIPE, stderr=DEVNULL
            )
        except OSError as fault:
            raise Unavailable("images cannot be checked now: no process can be started") from fault


def _close_input(process: Process) -> None:
    """A process ends when its input does."""
    if process.stdin is not None:
        process.stdin.close()


async def _ask(process: Process, data: bytes, media_type: str) -> bytes:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("a decoder has pipes")
    with suppress(ConnectionError):  # it has ended: there is no reply
        process.stdin.write(b"%b\n%d\n" % (media_type.encode(), len(data)))
        process.stdin.write(data)
        await process.stdin.drain()
    return await process.stdout.readline()


async def _end(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await asyncio.shield(process.wait())
