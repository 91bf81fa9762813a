"""What a model call costs: the operator's own prices, else those of `genai-prices`.

Prices are data of that package: nothing is downloaded. A model without a price costs nothing that is known,
which is `None` and never 0. Batch and priority rates, and fees for searches or images, are not known here.
"""

import asyncio
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import msgspec
import structlog

from rejoin_protocol.errors import Invalid
from rejoin_protocol.money import from_usd
from rejoin_runner.models.model import ModelName, ModelUsage

TOKENS_PER_PRICE = 1_000_000
PRICE_USD_MAX = 1_000_000
UNPRICED_MODELS_MAX = 1_000
"""So many models without a price are named in the log."""

log = structlog.get_logger("rejoin.prices")


class OwnPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars for a million tokens. `cached_input`: of input that the provider had cached; None: as
    `input`.
    """

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None

    def cost(self, usage: ModelUsage) -> int:
        """What the tokens cost, in nano-USD."""
        cached = min(usage.cached_input_tokens, usage.input_tokens)
        cached_price = self.input if self.cached_input is None else self.cached_input
        total = (
            self.input * (usage.input_tokens - cached)
            + cached_price * cached
            + self.output * usage.output_tokens
        )
        return from_usd(total / TOKENS_PER_PRICE)


def parse_prices(text: str | None) -> Mapping[str, OwnPrice]:
    """The prices by `provider:name` from JSON. Raises `Invalid`, which names the model and the field."""
    if not text:
        return {}
    try:
        by_model = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as fault:
        raise Invalid(f"REJOIN_PRICES is no JSON object of prices by model: {fault}") from fault
    return {model: _parse_price(model, value) for model, value in by_model.items()}


def _parse_price(model: str, value: Any) -> OwnPrice:
    provider, _, name = model.partition(":")
    if not provider or not name:
        raise Invalid(f"REJOIN_PRICES: {model!r} is no model; write it as `provider:name`")
    try:
        price = msgspec.json.decode(msgspec.json.encode(value), type=OwnPrice)
    except msgspec.ValidationError as fault:
        raise Invalid(f"REJOIN_PRICES: the price of {model}: {fault}") from fault
    for field, usd in msgspec.structs.asdict(price).items():
        if usd is not None and not (usd.is_finite() and 0 <= usd <= PRICE_USD_MAX):
            raise Invalid(f"REJOIN_PRICES: {field} of {model} is not between 0 and {PRICE_USD_MAX} USD")
    return price


class Prices:
    """The prices of all models."""

    def __init__(self, own: Mapping[str, OwnPrice]) -> None:
        self._own = own
        self._known: Callable[[ModelUsage], int | None] | None = None
        self._unpriced: set[ModelName] = set()

    async def load(self) -> None:
        """Import the package with its prices, which takes a second: once, and beside the event loop."""
        if self._known is None:
            self._known = await asyncio.to_thread(_load_package)

    async def cost(self, usage: ModelUsage) -> int | None:
        """What the tokens cost, in nano-USD. None: the model has no price, which the log says once."""
        own = self._own.get(str(usage.model))
        if own is not None:
            return own.cost(usage)
        await self.load()
        cost = None if self._known is None else self._known(usage)
        model = msgspec.structs.replace(usage.model, reported=None)
        if cost is None and model not in self._unpriced and len(self._unpriced) < UNPRICED_MODELS_MAX:
            self._unpriced.add(model)
            log.warning("model_without_price", model=str(model), own_address=model.address is not None)
        return cost


def _load_package() -> Callable[[ModelUsage], int | None]:
    from genai_prices import Usage
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()

    def known_cost(usage: ModelUsage) -> int | None:
        model = usage.model
        # Another address is another service, with other prices, unless the package knows it.
        provider = model.provider if model.address is None else None
        counts = Usage(
            input_tokens=usage.input_tokens,
            cache_read_tokens=min(usage.cached_input_tokens, usage.input_tokens),
            output_tokens=usage.output_tokens,
        )
        for name in (model.name, model.reported):
            try:
                found = snapshot.calc(counts, name, provider, model.address, None) if name else None
            except (LookupError, ValueError):
                continue
            if found is not None and found.model_price.input_mtok is not None:
                return from_usd(found.total_price)
        return None

    return known_cost
