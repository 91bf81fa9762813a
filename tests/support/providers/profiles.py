"""How twelve services deviate from each other: what they take, and how they speak the same answer.

Each quirk has its source. A quirk is data: `dialects` speaks an answer by it, `chat_rules` checks requests by
it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from tests.support.providers.chat_rules import ChatRules

type ErrorBody = Callable[[int, str], Any]


def _openai_error(status: int, text: str) -> Any:
    del status
    return {"error": {"message": text, "type": "invalid_request_error", "param": None, "code": None}}


def _anthropic_error(status: int, text: str) -> Any:
    del status
    return {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": text},
        "request_id": "req_1",
    }


def _vllm_error(status: int, text: str) -> Any:
    return {"error": {"message": text, "type": "BadRequestError", "param": None, "code": status}}


def _mistral_error(status: int, text: str) -> Any:
    return {
        "object": "error",
        "message": text,
        "type": "invalid_request_error",
        "code": "3280",
        "raw_status_code": status,
    }


def _gemini_error(status: int, text: str) -> Any:
    return [_google_error(status, text)]


def _google_error(status: int, text: str) -> Any:
    return {"error": {"code": status, "message": text, "status": "INVALID_ARGUMENT"}}


def _openrouter_error(status: int, text: str) -> Any:
    metadata = {"raw": text, "provider_name": "Fake"}
    return {
        "error": {"message": "Provider returned error", "code": status, "metadata": metadata},
        "user_id": "user_1",
    }


def _litellm_error(status: int, text: str) -> Any:
    error = {"message": f"litellm.BadRequestError: {text}", "type": None, "param": None, "code": str(status)}
    return {"error": error}


def _llama_cpp_error(status: int, text: str) -> Any:
    return {"error": {"code": status, "message": text, "type": "invalid_request_error"}}


@dataclass(frozen=True)
class ProviderProfile:
    """One service. The defaults are OpenAI's chat completions."""

    name: str
    sources: tuple[str, ...]
    """Where the deviations are documented or reported."""
    wire: Literal["chat", "responses", "anthropic", "google"] = "chat"
    spec: str = "openai"
    """The provider in a model's name: `spec:model`."""
    rules: ChatRules = field(default_factory=ChatRules)
    error: ErrorBody = _openai_error
    opening: tuple[bytes, ...] = ()
    """Frames before the first delta, as they are on the wire."""
    comment: bytes = b""
    """A comment between deltas that keeps the connection alive."""
    each_role: bool = False
    """Each delta names the role, not only the first."""
    empty_delta_fields: bool = False
    """Each delta has all fields: `content` is empty or null where there is none, `tool_calls` is `[]`."""
    usage: Literal["last chunk", "each chunk", "at the finish", "x_groq", "absent"] = "last chunk"
    """`each chunk`: cumulative sums in every chunk. `at the finish`: in the chunk with the finish reason."""
    thoughts: Literal["reasoning_content", "reasoning", "tags", "parts", "none"] = "none"
    """Where reasoning is: a field of the delta, `<think>` in the text, or parts of a list as content."""
    call_index: Literal["counted", "zero", "absent"] = "counted"
    whole_calls: bool = False
    """A call comes in one delta."""
    repeated_name: bool = False
    """Each delta of a call repeats its id and name."""
    tool_finish: str = "tool_calls"
    """The finish reason behind tool calls."""
    finish_without_delta: bool = False
    """The choice with the finish reason has no `delta`."""
    closing: tuple[bytes, ...] = ()
    """Frames after the finish, before `[DONE]`."""
    done: bool = True
    """The stream ends with `[DONE]`."""


_AZURE_PROMPT = (
    b'data: {"choices":[],"created":0,"id":"","model":"","object":"",'
    b'"prompt_filter_results":[{"prompt_index":0,"content_filter_results":{}}]}\n\n'
)
_AZURE_FILTER = (
    b'data: {"id":"","object":"","created":0,"model":"","choices":[{"index":0,"finish_reason":null,'
    b'"content_filter_results":{},"content_filter_offsets":{"check_offset":44,"start_offset":44,"end_offset":198}}],'
    b'"usage":null}\n\n'
)
_TEXT_AND_IMAGES = frozenset({"text", "image_url"})

OPENAI = ProviderProfile("openai", ("https://platform.openai.com/docs/api-reference/chat-streaming",))
RESPONSES = ProviderProfile(
    "openai responses",
    ("https://platform.openai.com/docs/api-reference/responses-streaming",),
    wire="responses",
    spec="openai-responses",
)
ANTHROPIC = ProviderProfile(
    "anthropic",
    (
        "https://docs.anthropic.com/en/docs/build-with-claude/streaming",
        "https://github.com/home-assistant/core/issues/175637",
    ),
    wire="anthropic",
    spec="anthropic",
    error=_anthropic_error,
)
AZURE = ProviderProfile(
    "azure",
    (
        "https://github.com/openai/openai-python/issues/1677",
        "https://github.com/microsoft/autogen/issues/6465",
        "https://github.com/pydantic/pydantic-ai/issues/797",
    ),
    rules=ChatRules(user_parts=_TEXT_AND_IMAGES),
    opening=(_AZURE_PROMPT,),
    finish_without_delta=True,
    closing=(_AZURE_FILTER,),
)
VLLM = ProviderProfile(
    "vllm",
    ("https://github.com/vllm-project/vllm/pull/6652", "https://github.com/vllm-project/vllm/pull/9357"),
    spec="vllm",
    rules=ChatRules(user_parts=frozenset({"text", "image_url", "input_audio"})),
    error=_vllm_error,
    usage="each chunk",
    thoughts="reasoning_content",
)
OLLAMA = ProviderProfile(
    "ollama",
    ("https://github.com/ollama/ollama/issues/15457", "https://github.com/ollama/ollama/issues/12557"),
    spec="ollama",
    rules=ChatRules(user_parts=_TEXT_AND_IMAGES, remote_images=False),
    each_role=True,
    thoughts="reasoning",
    call_index="zero",
    whole_calls=True,
    tool_finish="stop",
)
LLAMA_CPP = ProviderProfile(
    "llama.cpp",
    (
        "https://github.com/openai-php/client/issues/780",
        "https://github.com/ggml-org/llama.cpp/pull/12379",
        "https://github.com/ggml-org/llama.cpp/issues/11325",
    ),
    spec="vllm",
    rules=ChatRules(user_parts=frozenset({"text", "image_url", "input_audio"})),
    error=_llama_cpp_error,
    thoughts="tags",
)
LITELLM = ProviderProfile(
    "litellm",
    (
        "https://github.com/BerriAI/liteLLM-proxy/issues/19",
        "https://github.com/BerriAI/litellm/issues/21041",
    ),
    spec="litellm",
    error=_litellm_error,
    thoughts="reasoning_content",
    repeated_name=True,
    tool_finish="stop",
)
OPENROUTER = ProviderProfile(
    "openrouter",
    ("https://openrouter.ai/docs/api-reference/streaming", "https://github.com/openai/openai-go/issues/227"),
    spec="openrouter",
    error=_openrouter_error,
    opening=(b": OPENROUTER PROCESSING\n\n",) * 2,
    comment=b": OPENROUTER PROCESSING\n\n",
    each_role=True,
    empty_delta_fields=True,
    thoughts="reasoning",
)
DEEPSEEK = ProviderProfile(
    "deepseek",
    (
        "https://api-docs.deepseek.com/api/create-chat-completion/",
        "https://api-docs.deepseek.com/quick_start/rate_limit",
    ),
    spec="deepseek",
    rules=ChatRules(user_parts=frozenset({"text"})),
    opening=(b": keep-alive\n\n",),
    comment=b": keep-alive\n\n",
    empty_delta_fields=True,
    usage="at the finish",
    thoughts="reasoning_content",
)
GEMINI = ProviderProfile(
    "gemini",
    (
        "https://github.com/THU-MAIC/OpenMAIC/issues/1556",
        "https://github.com/open-webui/computer/issues/224",
        "https://github.com/openai/openai-python/issues/2806",
    ),
    rules=ChatRules(user_parts=frozenset({"text", "image_url", "input_audio"})),
    error=_gemini_error,
    each_role=True,
    usage="each chunk",
    call_index="absent",
    whole_calls=True,
    tool_finish="stop",
)
GOOGLE = ProviderProfile(
    "google",
    (
        "https://ai.google.dev/api/generate-content",
        "https://ai.google.dev/gemini-api/docs/function-calling",
    ),
    wire="google",
    spec="google",
    error=_google_error,
)
MISTRAL = ProviderProfile(
    "mistral",
    (
        "https://docs.mistral.ai/api/#tag/chat",
        "https://github.com/anomalyco/opencode/issues/1680",
        "https://github.com/nearai/ironclaw/issues/1241",
        "https://github.com/dnakov/anon-kode/issues/53",
        "https://github.com/editor-code-assistant/eca/issues/231",
        "https://github.com/charmbracelet/crush/issues/1590",
        "https://github.com/BerriAI/litellm/issues/16272",
    ),
    spec="mistral",
    rules=ChatRules(
        extra_fields=False,
        refused_fields=frozenset({"stream_options", "max_completion_tokens"}),
        call_id=re.compile(r"[a-zA-Z0-9]{9}"),
        user_parts=frozenset({"text", "image_url", "document_url"}),
        user_after_tool=False,
        last_roles=frozenset({"user", "tool"}),
    ),
    error=_mistral_error,
    usage="at the finish",
    thoughts="parts",
    whole_calls=True,
)
GROQ = ProviderProfile(
    "groq",
    (
        "https://github.com/vercel/ai/issues/1651",
        "https://github.com/tashfeenahmed/freellmapi/issues/1070",
        "https://github.com/Portkey-AI/gateway/issues/1338",
    ),
    spec="groq",
    rules=ChatRules(user_parts=_TEXT_AND_IMAGES, extra_fields=False),
    usage="x_groq",
    thoughts="reasoning",
    whole_calls=True,
)
PROFILES = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            OPENAI,
            AZURE,
            ANTHROPIC,
            RESPONSES,
            VLLM,
            OLLAMA,
            LLAMA_CPP,
            LITELLM,
            OPENROUTER,
            DEEPSEEK,
            GEMINI,
            GOOGLE,
            MISTRAL,
            GROQ,
        )
    }
)
CHAT_PROFILES = tuple(profile for profile in PROFILES.values() if profile.wire == "chat")
