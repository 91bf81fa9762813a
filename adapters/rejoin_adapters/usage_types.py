"""Tokens and money that runs have used, as the database ports exchange them. Money is in nano-USD."""

from collections.abc import Sequence
from datetime import date
from itertools import islice
from typing import Any, Literal

import msgspec

from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.ids import AgentName, TenantId
from rejoin_protocol.money import parse_usd

TOKENS_MAX = 2**53
"""Larger counts in a message's metadata are ignored."""
MODEL_CHARS_MAX = 200
STORED_MODELS_MAX = 32
"""Further models are counted as unnamed ones."""


class RunUsage(msgspec.Struct, frozen=True):
    """What a run has used. `cost_nano_usd`: of the models that have a price; None: none of them has one."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano_usd: int | None = None

    @property
    def total(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


UNNAMED_MODEL = ""
"""The model of tokens for which no model is named: those of an application's own model."""


def parse_usage(answer: MessageDict) -> RunUsage:
    """The usage in an answer's metadata (`metadata.usage.inputTokens`, `outputTokens`, `costUsd`). A missing
    or invalid value is zero, or an unknown cost: the metadata may come from user code.
    """
    return _parse_counts(_field(_field(answer, "metadata"), "usage"))


def parse_model_usage(answer: MessageDict) -> dict[str, RunUsage]:
    """The same for each model (`metadata.usage.models`): together they are the usage of the answer."""
    total = parse_usage(answer)
    named = _field(_field(_field(answer, "metadata"), "usage"), "models")
    models = (
        {_to_model(name): _parse_counts(value) for name, value in islice(named.items(), STORED_MODELS_MAX)}
        if isinstance(named, dict)
        else {}
    )
    rest = RunUsage(
        max(0, total.input_tokens - sum(one.input_tokens for one in models.values())),
        max(0, total.output_tokens - sum(one.output_tokens for one in models.values())),
    )
    return {**models, UNNAMED_MODEL: rest} if rest.total else models


def _to_model(name: Any) -> str:
    """The name of a model as the database can store it."""
    return str(name)[:MODEL_CHARS_MAX].replace("\0", "")


def _parse_counts(usage: Any) -> RunUsage:
    def tokens(name: str) -> int:
        count = _field(usage, name)
        is_count = isinstance(count, int) and not isinstance(count, bool)
        return count if is_count and 0 <= count < TOKENS_MAX else 0

    return RunUsage(tokens("inputTokens"), tokens("outputTokens"), parse_usd(_field(usage, "costUsd")))


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


type UsageKey = Literal["day", "tenant", "agent", "model"]


class UsageRow(msgspec.Struct, frozen=True):
    """What runs have used on a day (UTC), of a tenant, with an agent, of a model; a part that is not asked
    for is None. `cost_nano_usd`: of the tokens that have a price; None: none of them has one.
    `unpriced_tokens`: the others.
    """

    input_tokens: int
    output_tokens: int
    unpriced_tokens: int
    cost_nano_usd: int | None
    day: date | None = None
    agent: AgentName | None = None
    model: str | None = None
    tenant: TenantId | None = None


def add_usage(one: UsageRow, other: UsageRow) -> UsageRow:
    """The sum, with the parts of `one`."""
    costs = [cost for cost in (one.cost_nano_usd, other.cost_nano_usd) if cost is not None]
    return msgspec.structs.replace(
        one,
        input_tokens=one.input_tokens + other.input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        unpriced_tokens=one.unpriced_tokens + other.unpriced_tokens,
        cost_nano_usd=sum(costs) if costs else None,
    )


class UsageFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which usage to sum up, and by what. `since` and `until`: days in UTC, both included."""

    by: Sequence[UsageKey]
    since: date
    until: date
    tenant: TenantId | None = None
    agent: AgentName | None = None


class SessionUsage(msgspec.Struct, frozen=True):
    """What all runs of a session have used, as `RunUsage`, and the number of these runs."""

    input_tokens: int
    output_tokens: int
    runs: int
    cost_nano_usd: int | None = None
