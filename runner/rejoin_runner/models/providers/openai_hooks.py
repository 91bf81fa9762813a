"""Checks that `openai` and `pydantic-ai` still have the private hooks that the fast path overrides.

The fast path (`openai_fast_path`) uses parts of both libraries that are not public and may change in any
release. If one of them is missing or has another signature, the libraries' public classes are used instead:
the answers are the same, and each streamed token costs more CPU time. Importing this imports both libraries.
"""

import dataclasses
import inspect
from functools import cache
from importlib import import_module
from typing import Any

import structlog
from openai import AsyncOpenAI
from pydantic_ai.models.openai import OpenAIChatModel

HOOKS = {
    "openai:AsyncOpenAI._make_sse_decoder": ("self",),
    "openai:AsyncOpenAI._process_response_data": ("self", "data", "cast_to", "response"),
    "openai._streaming:SSEDecoder.aiter_bytes": ("self", "iterator"),
    "openai._streaming:SSEDecoder.decode": ("self", "line"),
    "openai._streaming:ServerSentEvent.json": ("self",),
    "pydantic_ai.models.openai:OpenAIChatModel._process_streamed_response": (
        "self",
        "response",
        "model_request_parameters",
        "model_settings",
    ),
    "pydantic_ai.models.openai:OpenAIStreamedResponse.__aiter__": ("self",),
}
"""Methods that are overridden or called, and their parameters."""
ATTRIBUTES = (
    "pydantic_ai.models.openai:OpenAIChatModel._canonical_system_stamp",
    "pydantic_ai.models.openai:OpenAIStreamedResponse._parts_manager",
    "pydantic_ai.profiles:DEFAULT_THINKING_TAGS",
)
FIELDS = {
    "pydantic_ai.models.openai:OpenAIChatModel": "_provider",
    "pydantic_ai._parts_manager:ModelResponsePartsManager": "special_token_restorer",
    "pydantic_ai._special_tokens:StreamRestorer": "restorers",
    "pydantic_ai._special_tokens:_StreamedTextRestorer": "held",
}
"""Attributes of instances, which the classes annotate."""
RESPONSE_FIELDS = frozenset(
    {
        "model_request_parameters",
        "_model_name",
        "_model_profile",
        "_response",
        "_provider_name",
        "_model_id_namespace",
        "_provider_url",
        "_model_settings",
    }
)
"""What the fast path passes to the constructor of the library's streamed response."""

log = structlog.get_logger("rejoin.models")


@cache
def openai_classes() -> tuple[type[AsyncOpenAI], type[OpenAIChatModel]]:
    """The client and the chat model for OpenAI's protocol: the fast ones, or the libraries' own.

    Logs one line if a hook is missing.
    """
    if missing := find_missing_hooks():
        log.warning("openai_fast_path_unavailable", missing=missing)
        return AsyncOpenAI, OpenAIChatModel
    from rejoin_runner.models.providers.openai_fast_path import FastChatModel, FastOpenAIClient

    return FastOpenAIClient, FastChatModel


def find_missing_hooks() -> list[str]:
    """The hooks that are missing, or have another signature than the fast path expects."""
    missing = [path for path, parameters in HOOKS.items() if _parameters(_find(path)) != parameters]
    missing += [path for path in ATTRIBUTES if _find(path) is None]
    missing += [f"{path}.{name}" for path, name in FIELDS.items() if not _is_annotated(_find(path), name)]
    if not _has_expected_fields(_find("pydantic_ai.models.openai:OpenAIStreamedResponse")):
        missing.append("pydantic_ai.models.openai:OpenAIStreamedResponse")
    event = _parameters(_find("openai._streaming:ServerSentEvent.__init__"))
    if event is None or "data" not in event:
        missing.append("openai._streaming:ServerSentEvent.__init__")
    return missing


def _find(path: str) -> Any:
    module_name, _, attributes = path.partition(":")
    try:
        value: Any = import_module(module_name)
    except ImportError:
        return None
    for attribute in attributes.split("."):
        value = getattr(value, attribute, None)
    return value


def _parameters(function: Any) -> tuple[str, ...] | None:
    return tuple(inspect.signature(function).parameters) if callable(function) else None


def _is_annotated(owner: Any, name: str) -> bool:
    return isinstance(owner, type) and any(name in inspect.get_annotations(base) for base in owner.__mro__)


def _has_expected_fields(response: Any) -> bool:
    """Whether the response takes what the fast path passes, and needs nothing else."""
    if not dataclasses.is_dataclass(response):
        return False
    init_fields = [field for field in dataclasses.fields(response) if field.init]
    required = {
        field.name
        for field in init_fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    return required <= RESPONSE_FIELDS <= {field.name for field in init_fields}
