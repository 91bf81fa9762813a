"""The services that speak chat completions, and how each deviates. Data: pure.

Addresses and quirks of the wire are here. What a *model* takes (documents, efforts, system messages, schemas)
is in the profiles of pydantic-ai, which are kept up to date there: see `model_profiles`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from rejoin_protocol.errors import Invalid

type Profile = Mapping[str, Any]


type EffortForm = Literal["reasoning_effort", "reasoning", "thinking"]
"""`reasoning_effort` is OpenAI's field, `reasoning` OpenRouter's object, `thinking` the object of Z.AI."""
type DocumentForm = Literal["file", "document_url"]


class ChatService(msgspec.Struct, frozen=True, kw_only=True):
    """A service for one model.

    Attributes:
        base_url: The address before `/chat/completions`.
        key_header: The header with the key; `authorization` takes it behind `Bearer`.
        think_tags: Tags around reasoning in the text, of services that run models without a parser for it.
        thought_fields: The fields with reasoning, the preferred one first.
        effort_form: How the service is told how much to think.
        takes_usage_option: Whether it takes `stream_options`. One that does not reports its usage unasked.
        document_form: The part that a document is: `file` is OpenAI's, `document_url` Mistral's.
        profile: What the model takes, in the words of pydantic-ai's profiles.
    """

    base_url: str
    key_header: str = "authorization"
    think_tags: tuple[str, str] | None = None
    thought_fields: tuple[str, ...] = ("reasoning", "reasoning_content")
    effort_form: EffortForm = "reasoning_effort"
    takes_usage_option: bool = True
    document_form: DocumentForm = "file"
    profile: Profile = MappingProxyType({})

    @property
    def reads_tokens(self) -> bool:
        """Whether the service may read a control token in a text as one: see `special_tokens`."""
        return bool(self.profile.get("may_tokenize_special_tokens_in_content"))

    @property
    def trims_start(self) -> bool:
        """Whether a text's leading white space is the model's habit and no content."""
        return bool(self.profile.get("ignore_streamed_leading_whitespace"))


class _Quirks(msgspec.Struct, frozen=True):
    base_url: str = ""
    """Empty: the application gives it."""
    takes_base_url: bool = False
    """Whether an own address may replace it."""
    think_tags: bool = True
    """Whether models of this service write their reasoning into the text."""
    key_header: str = "authorization"
    effort_form: EffortForm = "reasoning_effort"
    takes_usage_option: bool = True
    document_form: DocumentForm = "file"
    profile: Profile = MappingProxyType({})
    """The properties of all models of the service. They override the models' profiles."""
    is_vendor: bool = False
    """Whether its models are known by their names behind the service's, as in `groq/llama-3.3-70b`: the
    library's class for the service needs a package that its answers do not.
    """


_SERVICES = MappingProxyType(
    {
        "alibaba": _Quirks("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", takes_base_url=True),
        "azure": _Quirks(takes_base_url=True, think_tags=False, key_header="api-key"),
        "cerebras": _Quirks("https://api.cerebras.ai/v1"),
        "deepseek": _Quirks("https://api.deepseek.com", think_tags=False),
        "fireworks": _Quirks("https://api.fireworks.ai/inference/v1"),
        "groq": _Quirks(
            "https://api.groq.com/openai/v1",
            takes_base_url=True,
            profile={
                "openai_chat_send_back_thinking_parts": False,  # it refuses unknown fields of messages
                "openai_reasoning_efforts": frozenset({"low", "medium", "high"}),
                "supports_document_input": False,
            },
            is_vendor=True,
        ),
        "heroku": _Quirks("https://us.inference.heroku.com/v1", takes_base_url=True),
        "litellm": _Quirks(takes_base_url=True),
        "mistral": _Quirks(
            "https://api.mistral.ai/v1",
            takes_base_url=True,
            takes_usage_option=False,
            document_form="document_url",
            profile={
                "openai_chat_send_back_thinking_parts": False,  # it refuses unknown fields, also of messages
                "openai_chat_supports_max_completion_tokens": False,
            },
            is_vendor=True,
        ),
        "moonshotai": _Quirks("https://api.moonshot.ai/v1", takes_base_url=True, think_tags=False),
        "nebius": _Quirks("https://api.studio.nebius.com/v1"),
        "ollama": _Quirks(takes_base_url=True),
        "openai": _Quirks("https://api.openai.com/v1", takes_base_url=True, think_tags=False),
        "openrouter": _Quirks("https://openrouter.ai/api/v1", think_tags=False, effort_form="reasoning"),
        "ovhcloud": _Quirks("https://oai.endpoints.kepler.ai.cloud.ovh.net/v1"),
        "sambanova": _Quirks("https://api.sambanova.ai/v1", takes_base_url=True),
        "together": _Quirks("https://api.together.xyz/v1"),
        "vercel": _Quirks("https://ai-gateway.vercel.sh/v1", think_tags=False),
        "vllm": _Quirks(takes_base_url=True),
        "zai": _Quirks(
            "https://api.z.ai/api/paas/v4", takes_base_url=True, think_tags=False, effort_form="thinking"
        ),
    }
)
CHAT_SERVICES = tuple(_SERVICES)
NEEDS_BASE_URL = tuple(name for name, quirks in _SERVICES.items() if not quirks.base_url)


def describe_service(provider: str, base_url: str | None, profile: Profile) -> ChatService:
    """The service `provider`, at its own address or at `base_url`, for a model with this profile.

    Raises `Invalid` if the service has one address only.
    """
    quirks = _SERVICES[provider]
    if base_url is not None and not quirks.takes_base_url:
        raise Invalid(f"{provider} has one address; for another one take openai:NAME with its base URL")
    has_tags = quirks.think_tags or is_compatible(provider, base_url)
    fields = ("reasoning", "reasoning_content")
    preferred = profile.get("openai_chat_thinking_field")
    return ChatService(
        base_url=base_url or quirks.base_url,
        key_header=quirks.key_header,
        think_tags=profile.get("thinking_tags", ("<think>", "</think>")) if has_tags else None,
        thought_fields=(preferred, *fields) if preferred in fields else fields,
        effort_form=quirks.effort_form,
        takes_usage_option=quirks.takes_usage_option,
        document_form=quirks.document_form,
        profile=profile,
    )


def known_name(provider: str, model: str) -> str | None:
    """The name by which the library knows a model of a service that it has no class for without a package;
    None for the other services.
    """
    return f"{provider}/{model}" if _SERVICES[provider].is_vendor else None


def adapt_profile(provider: str, profile: Profile) -> Profile:
    """A model's profile with what is so of all models of the service."""
    return MappingProxyType({**profile, **_SERVICES[provider].profile})


def is_compatible(provider: str, base_url: str | None) -> bool:
    """Whether it is some service that speaks OpenAI's wire, not OpenAI itself."""
    return provider == "openai" and base_url is not None
