"""What Rejoin says about a tool call in its provider metadata, under `rejoin`, beside what the provider says
under its own name. Pure.
"""

from typing import Any

METADATA_KEY = "rejoin"
CLIENT_KEY = "client"
"""True in a call whose tool the client runs."""


def add_own(metadata: Any, key: str, value: Any) -> dict[str, Any]:
    """The metadata with one more thing that Rejoin says."""
    known = metadata if isinstance(metadata, dict) else {}
    own = known.get(METADATA_KEY)
    own = own if isinstance(own, dict) else {}
    return {**known, METADATA_KEY: {**own, key: value}}


def runs_in_client(metadata: Any) -> bool:
    """Whether the metadata is that of a call which the client answers with an output."""
    match metadata:
        case {"rejoin": {"client": True}}:
            return True
        case _:
            return False
