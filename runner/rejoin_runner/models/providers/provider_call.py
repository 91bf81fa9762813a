"""One call of a real provider: retries, deadlines and API keys.

A `ModelWire` sends the request and reads the answer: `chat_completions.client` for OpenAI's chat completions
and all that are compatible with it, `library_call` for the other providers. `provider` owns names and
connections.

A request is repeated only until its answer begins: text that users have seen is never withdrawn.
"""

import asyncio
import inspect
import random
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Protocol

import msgspec
import structlog

from rejoin_adapters.process import redaction
from rejoin_runner.models.call_telemetry import model_call
from rejoin_runner.models.model import (
    Done,
    ModelChunk,
    ModelError,
    ModelKeyLookup,
    ModelName,
    ModelRequest,
)
from rejoin_runner.models.providers.conversation import Turn, build_conversation, call_names, system_texts
from rejoin_runner.models.providers.file_support import RefusedFiles, find_suspects
from rejoin_runner.models.providers.model_origin import ModelOrigin
from rejoin_runner.models.providers.output_mode import show_as_text
from rejoin_runner.models.providers.provider_failure import ProviderFailure
from rejoin_runner.models.providers.request_rules import declare_tools
from rejoin_runner.models.usage_estimate import UsageEstimate

_WAIT_FIRST_S = 0.5
_WAIT_MAX_S = 8.0
_RETRY_AFTER_MAX_S = 60.0
"""A provider that asks for a longer wait is not called again."""
KEY_TIMEOUT_S = 30.0
"""How long an application may take to look a tenant's API key up."""
NO_KEY = "none"
"""Without a key, the libraries take one from the environment and send it to any address."""

log = structlog.get_logger("rejoin.models")


class ModelWire(Protocol):
    """How one model is asked."""

    @property
    def origin(self) -> ModelOrigin:
        """The model, as its answers are marked in the log."""
        ...

    def answer(
        self,
        api_key: str,
        request: ModelRequest,
        turns: Sequence[Turn],
        origin: ModelOrigin,
        timeout_s: float,
    ) -> AsyncGenerator[ModelChunk | Done]:
        """One attempt: the answer's chunks, then its `Done`. Raises `ProviderFailure` for every failure.

        `turns` are the request's conversation, as the model `origin` takes it.
        """
        ...


class ProviderModel:
    """A model of a real provider.

    `process_key` serves tenants for which `tenant_key_lookup` has no key. `keyless`: calls need no key.
    `address`: the base URL, if it is not the provider's own.
    """

    def __init__(
        self,
        wire: ModelWire,
        provider: str,
        *,
        process_key: str | None,
        tenant_key_lookup: ModelKeyLookup | None,
        keyless: bool,
        answer_timeout_s: float,
        retries_max: int,
        address: str | None = None,
    ) -> None:
        self._wire = wire
        self._provider = provider
        self.name = ModelName(provider, wire.origin.model, address)
        self._refused_files = RefusedFiles()
        self._process_key = process_key
        self._tenant_key_lookup = tenant_key_lookup
        self._needs_tenant_key = not keyless and process_key is None
        self._answer_timeout_s = answer_timeout_s
        self._retries_max = retries_max

    @property
    def origin(self) -> ModelOrigin:
        """The model, as its answers are marked in the log."""
        return self._wire.origin

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """The answer of the first attempt whose answer begins. All attempts share one deadline.

        Closing the generator, or cancelling its task, closes the HTTP stream.
        """
        with model_call(self.name, request) as call:
            async with aclosing(self._answer(request)) as items:
                async for item in items:
                    call.see(item)
                    yield item

    async def _answer(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        key = await self._find_key(request.tenant)
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._answer_timeout_s
        origin, retries = self._wire.origin, 0
        left_out: frozenset[bytes] = frozenset()
        suspects: Iterator[frozenset[bytes]] | None = None
        while True:
            begun, estimate = False, UsageEstimate(request)
            refused = self._refused_files.with_others(left_out)
            turns = build_conversation([*request.history, request.answer], origin, refused)
            if request.meter is not None:
                request.meter.estimate = estimate.so_far
                request.meter.model = self.name
            answer = self._wire.answer(
                key, _complete_request(request, turns, origin), turns, origin, deadline - clock()
            )
            try:
                async with aclosing(answer if request.output is None else show_as_text(answer)) as chunks:
                    async for chunk in chunks:
                        if not begun:
                            self._refused_files.add(left_out)
                        begun = True
                        estimate.add(chunk)
                        yield self._report(chunk, estimate, request)
            except ProviderFailure as fault:
                if begun:
                    raise
                if request.meter is not None:
                    request.meter.estimate = None  # nothing was answered, so nothing is to be paid
                if fault.reasoning_refused and origin is self._wire.origin:
                    origin = origin.without_signatures()  # the reasoning is bound to another account
                    continue
                if fault.files_suspected:
                    suspects = suspects or iter(find_suspects(turns))
                    if left_out := next(suspects, frozenset()):
                        log.info("files_left_out", provider=self._provider, files=len(left_out))
                        continue
                wait_s = _retry_wait_s(fault, retries)
                if retries >= self._retries_max or wait_s is None or clock() + wait_s >= deadline:
                    raise
                retries += 1
                await asyncio.sleep(wait_s)
            else:
                return

    def _report(
        self, chunk: ModelChunk | Done, estimate: UsageEstimate, request: ModelRequest
    ) -> ModelChunk | Done:
        """The chunk; the end of the answer with the whole usage."""
        if not isinstance(chunk, Done):
            return chunk
        if request.meter is not None:
            request.meter.estimate = None
        usage = estimate.complete(chunk.usage)
        if usage.estimated:
            log.info("usage_estimated", provider=self._provider)
        return msgspec.structs.replace(chunk, usage=usage)

    async def _find_key(self, tenant: str) -> str:
        key = await self._look_up_key(tenant)
        if key is None and not self._needs_tenant_key:
            return self._process_key or NO_KEY
        if not key:  # with an empty key the libraries take one from the environment
            raise ModelError(f"there is no API key for {self._provider}")
        return key

    async def _look_up_key(self, tenant: str) -> str | None:
        """The application's key for a tenant. Exceptions are logged by type: texts may hold keys."""
        if self._tenant_key_lookup is None:
            return None
        try:
            async with asyncio.timeout(KEY_TIMEOUT_S):
                key = self._tenant_key_lookup(tenant, self._provider)
                key = await key if inspect.isawaitable(key) else key
        except Exception as fault:
            log.warning("model_key_lookup_failed", provider=self._provider, error=type(fault).__name__)
            raise ModelError(
                f"the API key for {self._provider} could not be looked up", retryable=True
            ) from fault
        if key is not None and not isinstance(key, str):
            raise ModelError(f"the API key for {self._provider} is no text")
        redaction.hide(key)
        return key


def _retry_wait_s(fault: ProviderFailure, retries: int) -> float | None:
    """Seconds to wait before the next attempt; None if there is no next attempt."""
    if not fault.retryable:
        return None
    if fault.wait_s is not None:
        return fault.wait_s if fault.wait_s <= _RETRY_AFTER_MAX_S else None
    longest = min(_WAIT_MAX_S, _WAIT_FIRST_S * 2**retries)
    return random.uniform(longest / 2, longest)  # noqa: S311 - spreads the retries of many runs


def _complete_request(request: ModelRequest, turns: Sequence[Turn], origin: ModelOrigin) -> ModelRequest:
    """The request with the system messages in its instructions, and the tools that the provider wants."""
    texts = [text for text in (request.instructions, *system_texts(request.history)) if text.strip()]
    tools = declare_tools(request.tools, call_names(turns), origin.rules)
    return msgspec.structs.replace(request, instructions="\n\n".join(texts), tools=tools)
