"""OpenAI's own client, but quick at what a stream consists of.

It builds each chunk field by field in Python, because it must not fail on what it does not know: 125 µs where
its models' validation takes 6. So they are validated, and built in its way only if that fails. Importing it
imports openai.
"""

from typing import TYPE_CHECKING, cast, override

import pydantic
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk

if TYPE_CHECKING:
    import httpx2


class QuickOpenAI(AsyncOpenAI):
    """Says and takes the same as its base, which owns everything else."""

    @override
    def _process_response_data[T](self, *, data: object, cast_to: type[T], response: "httpx2.Response") -> T:
        if cast_to == ChatCompletionChunk:
            try:
                return cast("T", ChatCompletionChunk.model_validate(data))
            except pydantic.ValidationError:
                pass  # of a service that is not quite compatible
        return super()._process_response_data(data=data, cast_to=cast_to, response=response)
