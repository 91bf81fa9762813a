"""Arguments that a person changed before approving a call, as the message has them. Pure.

The call's `input` is what ran. What the model had chosen, who changed it and when, stand under `rejoin` in
the provider metadata of the call, beside the origin of a delegated agent's part. So a reader of the message
needs neither the database nor the order of events.
"""

from datetime import datetime
from typing import Any

import msgspec

from rejoin_protocol.events.fold import Part
from rejoin_protocol.events.own_metadata import add_own

EDIT_KEY = "edit"


class EditedInput(msgspec.Struct, frozen=True, rename="camel"):
    """A change of a call's arguments. `shown_input`: what the model had chosen and the person saw. `by`: the
    user, or else the credential.
    """

    shown_input: dict[str, Any]
    by: str | None = None
    at: datetime | None = None


def with_edit(metadata: dict[str, Any] | None, edit: EditedInput) -> dict[str, Any]:
    """The provider metadata of a call with its change."""
    return add_own(metadata, EDIT_KEY, msgspec.to_builtins(edit))


def edit_of(part: Part) -> EditedInput | None:
    """The change of a call's arguments; None if nobody has changed them."""
    match part.get("callProviderMetadata"):
        case {"rejoin": {"edit": {"shownInput": dict()} as edit}}:
            return msgspec.convert(edit, EditedInput)
        case _:
            return None
