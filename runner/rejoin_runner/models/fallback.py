"""Several models as one: the next is called if the one before fails before its answer begins.

Each model keeps its own retries. Once a model's answer has begun, no other model is called: parts of two
answers make no answer.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from rejoin_protocol.errors import Invalid
from rejoin_runner.models.model import Done, Model, ModelChunk, ModelError, ModelRequest


class Fallback:
    """A `Model` made of several, in order of preference. Raises `Invalid` if there is none."""

    def __init__(self, models: Sequence[Model]) -> None:
        if not models:
            raise Invalid("a fallback needs a model")
        self._models = tuple(models)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """The answer of the first model that begins one.

        Raises the `ModelError` of a model whose answer had begun or whose failure is not retryable, else that
        of the last model.
        """
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
