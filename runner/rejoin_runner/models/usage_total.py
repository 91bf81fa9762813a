"""The usage of a whole run: tokens, cost, and each model's share, as the answer's metadata say it. Pure.

The log has the sum so far with every step, so that a runner which takes the run over continues it.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from rejoin_protocol.money import parse_usd, to_usd
from rejoin_runner.models.model import ModelUsage, Usage

REQUIRED_COUNTS = frozenset({"inputTokens", "outputTokens", "totalTokens"})
"""Token counts that are reported even if they are 0."""
MODELS_MAX = 16
OTHER_MODELS = "other"
"""The share of all further models."""


class ModelShare(msgspec.Struct, frozen=True):
    """What one model has used. `cost`: in nano-USD; None: it has no price."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost: int | None = None

    def to_metadata(self) -> dict[str, Any]:
        """Its value in `messageMetadata.usage.models`."""
        counts = {"inputTokens": self.input_tokens, "outputTokens": self.output_tokens}
        return counts if self.cost is None else {**counts, "costUsd": to_usd(self.cost)}


class UsageTotal(msgspec.Struct, frozen=True):
    """`cost`: of the models that have a price, in nano-USD; None: none of them has one."""

    tokens: Usage = Usage()
    cost: int | None = None
    models: Mapping[str, ModelShare] = {}

    def add(self, usage: Usage, cost: int | None) -> "UsageTotal":
        """The total with the usage of another call. `cost`: None without a price."""
        models = self.models
        if isinstance(usage, ModelUsage):
            model = str(usage.model)
            model = model if model in models or len(models) < MODELS_MAX else OTHER_MODELS
            share = models.get(model, ModelShare())
            grown = ModelShare(
                share.input_tokens + usage.input_tokens,
                share.output_tokens + usage.output_tokens,
                _plus(share.cost, cost),
            )
            models = {**models, model: grown}
        return UsageTotal(self.tokens + usage, _plus(self.cost, cost), models)

    def to_metadata(self) -> dict[str, Any]:
        """The value of `messageMetadata.usage`. Counts that a provider may leave out (cached, reasoning) are
        in it only if they are not 0, costs only if they are known.
        """
        counts = self.tokens.to_metadata()
        shown: dict[str, Any] = {
            name: count for name, count in counts.items() if count or name in REQUIRED_COUNTS
        }
        if self.cost is not None:
            shown["costUsd"] = to_usd(self.cost)
        if self.models:
            shown["models"] = {name: share.to_metadata() for name, share in self.models.items()}
        return shown

    @classmethod
    def parse(cls, metadata: Any) -> "UsageTotal":
        """The total that `to_metadata` wrote; nothing if the value has another form."""
        if not isinstance(metadata, dict):
            return cls()
        models = metadata.get("models")
        shares = models if isinstance(models, dict) else {}
        return cls(
            Usage.parse(metadata),
            parse_usd(metadata.get("costUsd")),
            {name: _parse_share(value) for name, value in shares.items()},
        )


def _parse_share(value: Any) -> ModelShare:
    tokens = Usage.parse(value)
    cost = parse_usd(value.get("costUsd")) if isinstance(value, dict) else None
    return ModelShare(tokens.input_tokens, tokens.output_tokens, cost)


def _plus(one: int | None, other: int | None) -> int | None:
    return one if other is None else other + (one or 0)
