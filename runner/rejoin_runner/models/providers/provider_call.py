"""One call of a real provider: sends the request, and returns the answer as chunks.

Owns retries, deadlines and API keys. `history` translates the conversation, `stream_translation` the answer;
`provider_failure` classifies failures; `provider` owns names and connections. Importing this module imports
pydantic-ai.

A request is repeated only until its answer begins: text that users have seen is never withdrawn.
"""

import asyncio
import inspect
import random
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, closing
from typing import Any, cast

import structlog
from pydantic_ai import exceptions
from pydantic_ai.direct import model_request_stream
from pydantic_ai.messages import ModelResponse, ModelResponseStreamEvent
from pydantic_ai.models import Model as LibraryModel
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings as LibrarySettings
from pydantic_ai.tools import ToolDefinition

from rejoin_adapters.process import redaction
from rejoin_runner.models.deadline import Deadline, iterate_within
from rejoin_runner.models.model import (
    Done,
    ModelChunk,
    ModelError,
    ModelKeyLookup,
    ModelRequest,
    ModelSettings,
    ToolSpec,
)
from rejoin_runner.models.providers.conversation import Turn, build_conversation, call_names, system_texts
from rejoin_runner.models.providers.file_support import RefusedFiles, find_suspects, refused_files
from rejoin_runner.models.providers.history import to_messages
from rejoin_runner.models.providers.model_origin import ModelOrigin
from rejoin_runner.models.providers.provider_failure import ProviderFailure, classify_failure
from rejoin_runner.models.providers.request_rules import RequestRules, declare_tools
from rejoin_runner.models.providers.stream_translation import StreamTranslator

RESPONSES = ("openai-responses", "meta")
"""Providers with OpenAI's Responses protocol, which stores every answer unless told otherwise."""
_WAIT_FIRST_S = 0.5
_WAIT_MAX_S = 8.0
_RETRY_AFTER_MAX_S = 60.0
"""A provider that asks for a longer wait is not called again."""
KEY_TIMEOUT_S = 30.0
"""How long an application may take to look a tenant's API key up."""
_NO_KEY = "none"
"""Without a key, the libraries take one from the environment and send it to any address."""

log = structlog.get_logger("rejoin.models")


class ProviderModel:
    """A model of a real provider.

    `make_library_model` returns the library's model for an API key; that is cheap, because all models share
    connections. `rules` are the provider's. `process_key` serves tenants for which `tenant_key_lookup` has no
    key. `keyless`: calls need no key.
    """

    def __init__(
        self,
        make_library_model: Callable[[str], LibraryModel],
        provider: str,
        *,
        rules: RequestRules,
        process_key: str | None,
        tenant_key_lookup: ModelKeyLookup | None,
        keyless: bool,
        answer_timeout_s: float,
        retries_max: int,
    ) -> None:
        self._make_library_model = make_library_model
        self._provider = provider
        self._model = make_library_model(process_key or _NO_KEY)
        refused = refused_files(provider, self._model.profile)
        self._origin = ModelOrigin(provider, self._model.model_name, self._model.system, refused, rules)
        self._refused_files = RefusedFiles()
        self._tenant_key_lookup = tenant_key_lookup
        self._needs_tenant_key = not keyless and process_key is None
        self._answer_timeout_s = answer_timeout_s
        self._retries_max = retries_max

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """The answer as chunks. Closing the generator, or cancelling its task, closes the HTTP stream."""
        messages = (*request.history, request.answer)
        earlier_calls = {
            part["toolCallId"] for message in messages for part in message["parts"] if "toolCallId" in part
        }
        translator = StreamTranslator(self._origin, earlier_calls, request.step)
        async with aclosing(self._retry(request)) as events:
            async for event in events:
                for chunk in (
                    translator.finish(event)
                    if isinstance(event, ModelResponse)
                    else translator.translate(event)
                ):
                    yield chunk

    async def _retry(self, request: ModelRequest) -> AsyncGenerator[ModelResponseStreamEvent | ModelResponse]:
        """The answer of the first attempt whose answer begins. All attempts share one deadline."""
        model = await self._with_key(request.tenant)
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._answer_timeout_s
        origin, retries = self._origin, 0
        left_out: frozenset[bytes] = frozenset()
        suspects: Iterator[frozenset[bytes]] | None = None
        while True:
            begun = False
            turns = build_conversation(
                [*request.history, request.answer], origin, self._refused_files.with_others(left_out)
            )
            try:
                async with aclosing(
                    self._attempt(model, request, turns, origin, deadline - clock())
                ) as events:
                    async for event in events:
                        if not begun:
                            self._refused_files.add(left_out)
                        begun = True
                        yield event
            except ProviderFailure as fault:
                if begun:
                    raise
                if fault.reasoning_refused and origin is self._origin:
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

    async def _with_key(self, tenant: str) -> LibraryModel:
        key = await self._look_up_key(tenant)
        if key is None and not self._needs_tenant_key:
            return self._model
        if not key:  # with an empty key the libraries take one from the environment
            raise ModelError(f"there is no API key for {self._provider}")
        return self._make_library_model(key)

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

    async def _attempt(
        self,
        model: LibraryModel,
        request: ModelRequest,
        turns: Sequence[Turn],
        origin: ModelOrigin,
        timeout_s: float,
    ) -> AsyncGenerator[ModelResponseStreamEvent | ModelResponse]:
        """The library's events, then its complete response. Raises `ProviderFailure` for every failure."""
        begun = False
        instructions = "\n\n".join([request.instructions, *system_texts(request.history)])
        tools = declare_tools(request.tools, call_names(turns), origin.rules)
        try:
            answer = model_request_stream(
                model,
                to_messages(instructions, turns, origin),
                model_settings=_settings(model, self._provider, request.settings),
                model_request_parameters=_parameters(tools),
            )
            with closing(Deadline(timeout_s)) as deadline:
                async with AsyncExitStack() as stack:
                    with deadline:
                        response = await stack.enter_async_context(answer)
                    async for event in iterate_within(aiter(response), deadline):
                        begun = True
                        yield event
                    yield _complete(response.get())
        except Exception as fault:  # unexpected bytes make the library raise many types
            raise classify_failure(fault, begun=begun) from fault


def _retry_wait_s(fault: ProviderFailure, retries: int) -> float | None:
    """Seconds to wait before the next attempt; None if there is no next attempt."""
    if not fault.retryable:
        return None
    if fault.wait_s is not None:
        return fault.wait_s if fault.wait_s <= _RETRY_AFTER_MAX_S else None
    longest = min(_WAIT_MAX_S, _WAIT_FIRST_S * 2**retries)
    return random.uniform(longest / 2, longest)  # noqa: S311 - spreads the retries of many runs


def _parameters(tools: Sequence[ToolSpec]) -> ModelRequestParameters:
    return ModelRequestParameters(function_tools=[_tool(spec) for spec in tools])


def _tool(spec: ToolSpec) -> ToolDefinition:
    # Not strict: strict schemas have rules of their own, and the arguments are validated here anyway.
    return ToolDefinition(
        name=spec.name,
        description=spec.description,
        parameters_json_schema=spec.input_schema,
        strict=False,
    )


def _settings(model: LibraryModel, provider: str, requested: ModelSettings) -> LibrarySettings:
    """The library's settings: no retries of its own, and the caller's settings for the provider."""
    named = {
        "max_retries": None if "max_retries" in model.unsupported_settings else 0,
        "temperature": requested.temperature,
        "max_tokens": requested.max_tokens,
        "parallel_tool_calls": requested.parallel_tool_calls,
        "thinking": False if requested.reasoning == "none" else requested.reasoning,
        "citations": requested.citations or None,
        "extra_body": dict(requested.extra) or None,
    }
    settings: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    if provider in RESPONSES:
        settings["openai_store"] = False  # the log has, encrypted, all that a later call needs
    if provider == "openai-responses" and requested.show_reasoning:
        settings["openai_reasoning_summary"] = "auto"
    if requested.thinking_budget is not None and provider in ("anthropic", "google"):
        settings.pop("thinking", None)
        if provider == "anthropic":
            settings["anthropic_thinking"] = {"type": "enabled", "budget_tokens": requested.thinking_budget}
        else:
            settings["google_thinking_config"] = {"thinking_budget": requested.thinking_budget}
    return cast("LibrarySettings", settings)


def _complete(response: ModelResponse) -> ModelResponse:
    """The response. Raises `UnexpectedModelBehavior` if the provider did not say that it is complete."""
    reason = response.finish_reason or (response.provider_details or {}).get("finish_reason")
    if response.state != "complete" or not reason:
        raise exceptions.UnexpectedModelBehavior("the stream ended early")
    return response
