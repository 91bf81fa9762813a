"""Checks a request by its provider's published rules, and refuses it as that provider does."""

import json
from collections.abc import Mapping
from typing import Any

from tests.support.providers import anthropic_rules, chat_rules, google_rules, responses_rules
from tests.support.providers.profiles import ANTHROPIC, GOOGLE, OPENAI, RESPONSES, ProviderProfile

_BAD_REQUEST = 400


def profile_of(path: str, chat: ProviderProfile = OPENAI) -> ProviderProfile:
    """The service whose wire has this path; `chat` for chat completions."""
    if path.endswith("/messages"):
        return ANTHROPIC
    if path.endswith(":streamGenerateContent"):
        return GOOGLE
    return RESPONSES if path.endswith("/responses") else chat


def find_violations(request: Mapping[str, Any], profile: ProviderProfile) -> list[str]:
    """The rules that the request breaks, in the provider's words. None: the provider answers it."""
    match profile.wire:
        case "anthropic":
            return list(anthropic_rules.find_violations(request))
        case "responses":
            return list(responses_rules.find_violations(request))
        case "google":
            return list(google_rules.find_violations(request))
        case "chat":
            return list(chat_rules.find_violations(request, profile.rules))


def refusal_body(profile: ProviderProfile, violation: str) -> bytes:
    """The body of the 400 with which this provider refuses a request."""
    return json.dumps(profile.error(_BAD_REQUEST, violation)).encode()
