"""Several models as one: the next is asked when the one before cannot begin.

Owns only the choice; every model keeps its own retries and its own idea of what a failure is. Once a model
has said anything it is not left any more: two halves by two models are no answer.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from rejoin_protocol.errors import Invalid

from rejoin_runner.models.model import Done, Model, ModelChunk, ModelError, ModelRequest


class Fallback:
    """`port.Model` of several, in the order of preference. Raises `Invalid` for none."""

    def __init__(self, models: Sequence[Model]) -> None:
        if not models:
            raise Invalid("a fallback needs a model")
        self._models = tuple(models)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """The answer of the first model that begins one. Raises what the last one raised."""
        *earlier, last = self._models
        for model in earlier:
            begun = False
            try:
                async with aclosing(model.stream(request)) as stream:
                    async for item in stream:
                        begun = True
                        yield item
            except ModelError as fault:
                if begun or not fault.retryable:
                    raise
            else:
                return
        async with aclosing(last.stream(request)) as stream:
            async for item in stream:
                yield item
