"""Which model wrote a part of an answer, and what it attached to the part and needs back with it. Pure."""

from typing import Any, Protocol

import msgspec
from msgspec import UNSET

from rejoin_protocol.events.chunks import Metadata
from rejoin_runner.models.providers.request_rules import RequestRules


class ProviderData(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a provider attached to a part, and needs back with it."""

    model: str
    id: str | None = None
    signature: str | None = None
    details: dict[str, Any] | None = None


class AnnotatedPart(Protocol):
    """A part of an answer, as the library has it."""

    id: str | None
    provider_details: dict[str, Any] | None


class ModelOrigin(msgspec.Struct, frozen=True):
    """The model that writes, or will read, a message.

    `provider` is our name for its kind and the key of its data in provider metadata; `system` is the
    library's name for it.
    """

    provider: str
    model: str
    system: str
    refused_files: frozenset[str] = frozenset()
    """Media types of files that it cannot take."""
    rules: RequestRules = RequestRules(user_first=False)

    def metadata(self, part: AnnotatedPart) -> Metadata:
        """The provider metadata that the log stores with a part of this model's answer."""
        signature = getattr(part, "signature", None)
        if not (part.id or signature or part.provider_details):
            return UNSET
        data = ProviderData(self.model, part.id, signature, part.provider_details)
        return {self.provider: msgspec.to_builtins(data)}

    def find_own_data(self, metadata: Any) -> ProviderData | None:
        """What this model attached to a part; None if another model did."""
        own = metadata.get(self.provider) if isinstance(metadata, dict) else None
        try:
            data = msgspec.convert(own, ProviderData)
        except msgspec.ValidationError:
            return None
        return data if data.model == self.model else None

    def without_signatures(self) -> "ModelOrigin":
        """The same model, to which no provider data of the history is sent: no signatures, no ids."""
        return msgspec.structs.replace(self, model="")
