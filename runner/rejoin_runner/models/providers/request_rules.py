"""What each provider takes in a request, as far as its published rules and its errors tell. Pure.

A request that breaks one of these rules is refused with 400, and so is every later one of its session,
because the history is sent with each of them. `conversation` makes every stored history fit; the log stays as
it was.

The rules hold what differs. What is right for everybody is not here: no empty text, no call without a result,
no result without a call, no id twice, and a user's message or a result at the end.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from types import MappingProxyType

import msgspec

from rejoin_protocol.errors import Invalid
from rejoin_runner.models.model import ToolSpec

NAME_CHARS_KEPT = 50
"""How many characters of a name stay if the name is changed for a provider."""
CALL_NAME_DIGEST_CHARS = 8
ABSENT = "Not there any more: do not call it."
"""The description of a tool that the agent does not have."""


class RequestRules(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of one provider."""

    tool_name: str = r"[a-zA-Z0-9_-]{1,64}"
    """The pattern of tool names."""
    call_id: str = r"[a-zA-Z0-9_-]{1,64}"
    """The pattern of the ids of calls."""
    call_id_prefix: str = "call_"
    """Begins an id that is made fit."""
    call_id_digest_chars: int = 24
    user_first: bool = True
    """Whether the conversation begins with a message of the user."""
    answer_after_results: bool = False
    """Whether an answer stands between results and the user's next message."""
    files_in_results: bool = True
    """Whether a tool's files can be sent. On the wire of chat completions they are a user's message, which
    some models do not take behind a result.
    """
    needs_tools: bool = False
    """Whether a request whose history has calls must declare tools."""
    tools_max: int | None = None
    """Tools of a request. None: no limit is known, as below."""
    description_chars_max: int | None = None
    """Characters of a tool's description."""


_OPENAI = RequestRules(
    call_id=r"[\x21-\x7e]{1,40}", user_first=False, tools_max=128, description_chars_max=1_024
)
_RULES = MappingProxyType(
    {
        "openai": _OPENAI,
        "azure": _OPENAI,
        "openai-responses": RequestRules(call_id=r"[\x21-\x7e]{1,64}", user_first=False, tools_max=128),
        "anthropic": RequestRules(needs_tools=True),
        "bedrock": RequestRules(needs_tools=True),
        "google": RequestRules(tool_name=r"[a-zA-Z_][a-zA-Z0-9_.-]{0,63}"),
    }
)
_COMPATIBLE = RequestRules(
    call_id=r"[\x21-\x7e]{1,40}",
    answer_after_results=True,
    needs_tools=True,
    tools_max=128,
    description_chars_max=1_024,
)
"""Servers that imitate OpenAI's chat completions, in front of any model: the rules of all of them together.
Templates of open models take turns strictly, and proxies pass Anthropic's rules on.
"""
_MISTRAL = RequestRules(
    call_id=r"[a-zA-Z0-9]{9}",
    call_id_prefix="",
    call_id_digest_chars=9,
    answer_after_results=True,
    files_in_results=False,
)
_MISTRAL_MODEL = re.compile(r"(?:mi[sx]|mini|dev|code|magi|pix)tral", re.IGNORECASE)


def find_rules(provider: str, model: str, *, own_address: bool = False) -> RequestRules:
    """The rules for a model. `own_address`: another service speaks this provider's protocol."""
    if provider == "mistral" or _MISTRAL_MODEL.search(model):
        return _MISTRAL
    if own_address and provider == "openai":
        return _COMPATIBLE
    return _RULES.get(provider, _COMPATIBLE)


def fit_tool_name(name: str, rules: RequestRules) -> str:
    """The name if the provider takes it, else a similar one that it takes and that no other name becomes."""
    if re.fullmatch(rules.tool_name, name):
        return name
    similar = re.sub(r"[^a-zA-Z0-9_-]+", "_", name).strip("_-")[:NAME_CHARS_KEPT]
    if not similar[:1].isalpha():
        similar = f"tool_{similar}".rstrip("_")
    return f"{similar}_{_digest(name)[:CALL_NAME_DIGEST_CHARS]}"


def fit_call_id(id: str, rules: RequestRules, taken: set[str]) -> str:
    """The id if the provider takes it and it is not in `taken`, else another one. Adds it to `taken`."""
    fitting, repeats = id, 0
    while fitting in taken or not re.fullmatch(rules.call_id, fitting):
        digest = _digest(f"{id}#{repeats}" if repeats else id)[: rules.call_id_digest_chars]
        fitting, repeats = rules.call_id_prefix + digest, repeats + 1
    taken.add(fitting)
    return fitting


def check_tools(spec: str, names: Sequence[str], *, own_address: bool = False) -> None:
    """Raises `Invalid` for tools that cannot be declared to a model of `spec`, as `open_model` takes it."""
    for provider, _, model in (name.strip().partition(":") for name in spec.split(",")):
        rules = find_rules(provider, model, own_address=own_address)
        for name in names:
            if not re.fullmatch(rules.tool_name, name):
                raise Invalid(f"{provider} takes no tool of the name {name!r}, only of {rules.tool_name}")
        if rules.tools_max is not None and len(names) > rules.tools_max:
            raise Invalid(f"{provider} takes at most {rules.tools_max} tools, not {len(names)}")


def declare_tools(tools: Sequence[ToolSpec], called: Iterable[str], rules: RequestRules) -> list[ToolSpec]:
    """The tools as the provider takes them: with shorter descriptions, and without those beyond its limit.

    An agent without tools may have to declare those that other agents `called` in the conversation.
    """
    if not tools and rules.needs_tools:
        tools = [ToolSpec(name, ABSENT, {"type": "object", "properties": {}}) for name in called]
    longest = rules.description_chars_max
    return [
        msgspec.structs.replace(tool, description=tool.description[:longest])
        for tool in tools[: rules.tools_max]
    ]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
