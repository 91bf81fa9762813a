"""What a model takes, as pydantic-ai's profiles have it. Importing this imports pydantic-ai."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic_ai.exceptions import UserError
from pydantic_ai.providers import infer_provider_class
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

from rejoin_protocol.errors import Invalid


def find_profile(provider: str, model: str, *, is_compatible: bool) -> Mapping[str, Any]:
    """The profile of a provider's model. `is_compatible`: the provider is some service with OpenAI's wire,
    and the model's name may have its vendor's in front.

    Raises `Invalid` if the provider has no such name.
    """
    provider_class = OpenAICompatibleProvider if is_compatible else infer_provider_class(provider)
    try:
        profile = dict(provider_class.model_profile(model) or {})
    except UserError as fault:
        raise Invalid(f"{provider} cannot be used: {fault}") from fault
    if not profile.get("openai_chat_supports_document_input", True):
        profile["supports_document_input"] = False
    if profile.get("groq_supports_graded_reasoning_effort") is False:  # it has words of its own
        profile |= {"supports_thinking": False, "thinking_always_enabled": False}
    return MappingProxyType(profile)
