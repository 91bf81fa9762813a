"""The model of an agent that has none."""

from collections.abc import AsyncGenerator

import msgspec

from rejoin_runner.models.model import (
    Done,
    ModelChunk,
    ModelError,
    ModelRequest,
)


class MissingModel(msgspec.Struct, frozen=True):
    """The model of an agent that has none, and why."""

    why: str

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`."""
        if request.step >= 0:
            raise ModelError(self.why)
        yield Done("error")
