"""How much of a session's history a claim takes."""

import msgspec

from rejoin_adapters.usage_types import TOKENS_MAX


class HistoryBounds(msgspec.Struct, frozen=True):
    """How much of a history a claim takes. Sizes are those of the JSON. A history above `inline_bytes_max`
    does not come with the claim: see `RunStore.load_history`.
    """

    messages_max: int | None = None
    bytes_max: int | None = None
    inline_bytes_max: int = TOKENS_MAX


ALL_HISTORY = HistoryBounds()
