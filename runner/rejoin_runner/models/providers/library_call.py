"""Asks a provider through pydantic-ai's model classes: Anthropic, OpenAI's Responses, and all with a wire of
their own.

`history` translates the conversation, `stream_translation` the answer. Importing this module imports
pydantic-ai.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from typing import Any, cast

from pydantic_ai import exceptions
from pydantic_ai.direct import model_request_stream
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models import Model as LibraryModel
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.output import OutputObjectDefinition
from pydantic_ai.settings import ModelSettings as LibrarySettings
from pydantic_ai.tools import ToolDefinition

from rejoin_runner.models.deadline import Deadline, iterate_within
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest, ModelSettings, ToolSpec
from rejoin_runner.models.providers.conversation import Turn
from rejoin_runner.models.providers.file_support import refused_files
from rejoin_runner.models.providers.history import to_messages
from rejoin_runner.models.providers.model_origin import ModelOrigin
from rejoin_runner.models.providers.output_mode import output_tool
from rejoin_runner.models.providers.provider_failure import classify_failure
from rejoin_runner.models.providers.request_rules import RequestRules
from rejoin_runner.models.providers.stream_translation import StreamTranslator

RESPONSES = ("openai-responses", "meta")
"""Providers with OpenAI's Responses protocol, which stores every answer unless told otherwise."""


class LibraryWire:
    """A model of the library, made for each API key: that is cheap, because all models share connections.

    `process_key` is the key of the model that is kept. `rules` are the provider's.
    """

    def __init__(
        self,
        make_library_model: Callable[[str], LibraryModel],
        provider: str,
        process_key: str,
        rules: RequestRules,
    ) -> None:
        self._make_library_model = make_library_model
        self._provider = provider
        self._process_key = process_key
        self._model = make_library_model(process_key)
        refused = refused_files(provider, self._model.profile)
        self.origin = ModelOrigin(provider, self._model.model_name, self._model.system, refused, rules)

    async def answer(
        self,
        api_key: str,
        request: ModelRequest,
        turns: Sequence[Turn],
        origin: ModelOrigin,
        timeout_s: float,
    ) -> AsyncGenerator[ModelChunk | Done]:
        """See `ModelWire`."""
        begun = False
        model = self._model if api_key == self._process_key else self._make_library_model(api_key)
        translator = StreamTranslator(self.origin, request.call_ids(), request.step)
        try:
            answer = model_request_stream(
                model,
                to_messages(request.instructions, turns, origin),
                model_settings=_settings(model, self._provider, request.settings),
                model_request_parameters=_parameters(request),
            )
            with closing(Deadline(timeout_s)) as deadline:
                async with AsyncExitStack() as stack:
                    with deadline:
                        response = await stack.enter_async_context(answer)
                    async for event in iterate_within(aiter(response), deadline):
                        for chunk in translator.translate(event):
                            begun = True
                            yield chunk
                    complete = _complete(response.get())
            if request.meter is not None:
                request.meter.report_name(complete.model_name)
            for item in translator.finish(complete):
                yield item
        except Exception as fault:  # unexpected bytes make the library raise many types
            raise classify_failure(fault, begun=begun) from fault


def _parameters(request: ModelRequest) -> ModelRequestParameters:
    """The tools and the output. The library chooses the output's mode: it knows what each model combines."""
    tools = [_tool(spec) for spec in request.tools]
    if request.output is None:
        return ModelRequestParameters(function_tools=tools)
    output = request.output
    return ModelRequestParameters(
        function_tools=tools,
        output_mode="auto",
        output_object=OutputObjectDefinition(output.schema, output.name, output.description or None),
        output_tools=[replace(_tool(output_tool(output)), kind="output")],
        allow_text_output=False,
    )


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
        "max_retries": 0,
        **_sampling(provider, requested),
        "stop_sequences": list(requested.stop) or None,
        "max_tokens": requested.max_tokens,
        "parallel_tool_calls": requested.parallel_tool_calls,
        "thinking": False if requested.reasoning == "none" else requested.reasoning,
        "citations": requested.citations or None,
        "extra_body": dict(requested.extra) or None,
    }
    settings: dict[str, Any] = {
        name: value
        for name, value in named.items()
        if value is not None and name not in model.unsupported_settings  # it would warn of every call
    }
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


def _sampling(provider: str, requested: ModelSettings) -> dict[str, float | None]:
    """Temperature and `top_p`. Anthropic refuses both together, and either of them beside thinking."""
    thinks = requested.thinking_budget is not None or requested.reasoning not in (None, "none")
    if provider == "anthropic" and thinks:
        return {}
    if provider == "anthropic" and requested.temperature is not None:
        return {"temperature": requested.temperature}
    return {"temperature": requested.temperature, "top_p": requested.top_p}


def _complete(response: ModelResponse) -> ModelResponse:
    """The response. Raises `UnexpectedModelBehavior` if the provider did not say that it is complete."""
    reason = response.finish_reason or (response.provider_details or {}).get("finish_reason")
    if response.state != "complete" or not reason:
        raise exceptions.UnexpectedModelBehavior("the stream ended early")
    if response.finish_reason == "error":
        raise exceptions.UnexpectedModelBehavior("the provider failed")
    return response
