"""The model of an agent that has none: every call fails with the reason."""

from collections.abc import AsyncGenerator

import msgspec

from rejoin_runner.models.model import Done, ModelChunk, ModelError, ModelRequest


class MissingModel(msgspec.Struct, frozen=True):
    """A `Model` that raises `ModelError`."""

    reason: str
    """Shown to users as the run's error."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model.stream`."""
        if request.step >= 0:  # always: the `yield` below makes this function a generator
            raise ModelError(self.reason)
        yield Done("error")
