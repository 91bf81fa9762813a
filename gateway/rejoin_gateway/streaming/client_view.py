"""Which events a client receives, by the version of its AI SDK. Pure.

A client ends its stream at a type that it does not know, and most clients cannot state their version. What a
client that states none receives was measured with the real clients: see the table in `docs/clients.md`.
"""

from collections.abc import Mapping

import msgspec

from rejoin_protocol.errors import Invalid
from rejoin_protocol.log.record import View

VIEW_DEFAULT = View(v7=False)
"""For a client that states no version: what AI SDK 6 knows, and `reset-step`.

AI SDK 7 corrects a message by `reset-step`, without a new connection. AI SDK 6 ends its stream there, as it
would at a broken connection, and what it resumes is correct.
"""
VIEWS: Mapping[str, View] = {
    "5": View(v7=False, v6=False, resets=False),
    "6": View(v7=False, resets=False),
    "7": View(),
}


def client_view(ui: str | None, *, operations: bool) -> View:
    """The view of a client. `ui`: the major version that it states. `operations`: whether it asked for all
    operations. Raises `Invalid` for any other version.
    """
    if ui is not None and ui not in VIEWS:
        raise Invalid(f"ui is 5, 6 or 7, not {ui[:64]!r}")
    return msgspec.structs.replace(VIEW_DEFAULT if ui is None else VIEWS[ui], operations=operations)
