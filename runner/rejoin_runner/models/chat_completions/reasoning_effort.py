"""How much a model is to think, in the words that its service takes. Pure."""

from typing import Any

from rejoin_runner.models.chat_completions.services import ChatService, Profile
from rejoin_runner.models.model import ReasoningEffort

_LEVELS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def is_reasoning(profile: Profile, requested: ReasoningEffort | None) -> bool:
    """Whether the model reasons in this request, and takes no temperature then."""
    if not profile.get("openai_supports_reasoning", False):
        return False
    if "none" not in _accepted(profile):
        return True
    if requested is None:
        return bool(profile.get("thinking_enabled_by_default", False))
    return requested != "none" or bool(profile.get("thinking_always_enabled", False))


def effort_fields(service: ChatService, requested: ReasoningEffort | None) -> dict[str, Any]:
    """The fields of the request; none if nothing was requested, or the model does not think."""
    profile = service.profile
    always = bool(profile.get("thinking_always_enabled", False))
    thinks = bool(profile.get("supports_thinking", False)) or always
    if service.effort_form == "thinking":
        return _thinking_fields(profile, requested, always=always) if thinks else {}
    if requested is None or not thinks:
        return {}
    if service.effort_form == "reasoning":
        if requested == "none":
            return {"reasoning": {"effort": "low"} if always else {"enabled": False}}
        return {"reasoning": {"effort": _nearest(profile, requested), "enabled": True}}
    if requested == "none" and "openai_chat_thinking_false_body" in profile:
        return dict(profile["openai_chat_thinking_false_body"])
    level = _nearest(profile, requested)
    return {} if level is None else {"reasoning_effort": level}


def _accepted(profile: Profile) -> tuple[str, ...]:
    """The efforts that the model accepts, the least first."""
    takes_max = profile.get("openai_chat_supports_max_reasoning_effort", False)
    known = profile.get("openai_reasoning_efforts")
    if known is None:
        known = set(_LEVELS)
        if not profile.get("openai_supports_reasoning_effort_none", False):
            known.discard("none")
        if not profile.get("openai_supports_minimal_reasoning_effort", True):
            known.discard("minimal")
    return tuple(level for level in _LEVELS if level in known and (level != "max" or takes_max))


def _nearest(profile: Profile, requested: ReasoningEffort) -> str | None:
    """The lowest accepted effort that is not below the requested one, else the highest."""
    accepted = _accepted(profile)
    if requested == "none":
        if profile.get("openai_reasoning_efforts") is None:
            return None if profile.get("thinking_always_enabled", False) else "none"
        return next(iter(accepted), None)
    active = [level for level in accepted if level != "none"]
    wanted = _LEVELS.index(requested)
    return next((level for level in active if _LEVELS.index(level) >= wanted), active[-1] if active else None)


def _thinking_fields(profile: Profile, requested: ReasoningEffort | None, *, always: bool) -> dict[str, Any]:
    """Z.AI's object. Earlier reasoning is kept, as with every other service."""
    thinking: dict[str, Any] = {"clear_thinking": False}
    if requested is not None:
        thinking["type"] = "disabled" if requested == "none" and not always else "enabled"
    fields: dict[str, Any] = {"thinking": thinking}
    if requested not in (None, "none") and profile.get("zai_supports_reasoning_effort", False):
        fields["reasoning_effort"] = requested
    return fields
