"""Which files a model cannot take.

pydantic-ai's profiles know whether a model reads images and documents at all; what else a provider's
pages exclude is listed here. Whatever nobody knew before is learnt from the provider's refusal. A file that a
model refuses would make every later request of its session fail, because the history is sent with each of
them; so it is replaced by a note.
"""

from collections.abc import Collection, Iterable
from types import MappingProxyType

from pydantic_ai.profiles import ModelProfile

from rejoin_protocol.file_formats import BINARY_TYPES, GIF, PDF, WEBP
from rejoin_runner.models.providers.conversation import Turn, files_in

REFUSED_MAX = 10_000
"""Digests of refused files that one model remembers, the newest."""

_REFUSED = MappingProxyType(
    {"google": frozenset({GIF}), "ollama": frozenset({PDF}), "xai": frozenset({GIF, WEBP})}
)


def refused_files(provider: str, profile: ModelProfile) -> frozenset[str]:
    """The media types among those of attachments that this model cannot take."""
    return frozenset(media_type for media_type in BINARY_TYPES if not _takes(media_type, provider, profile))


def _takes(media_type: str, provider: str, profile: ModelProfile) -> bool:
    if media_type in _REFUSED.get(provider, ()):
        return False
    if media_type != PDF:
        return profile.get("supports_image_input", True)
    documents = profile.get("supported_document_media_types")
    return profile.get("supports_document_input", True) and (documents is None or PDF in documents)


class RefusedFiles:
    """The files that one model has refused, by digest. Single files, not kinds: a model that takes images may
    refuse a damaged one.
    """

    def __init__(self) -> None:
        self._digests: dict[bytes, None] = {}

    def add(self, digests: Iterable[bytes]) -> None:
        """Remember files; forget the oldest beyond `REFUSED_MAX`."""
        self._digests.update(dict.fromkeys(digests))
        while len(self._digests) > REFUSED_MAX:
            del self._digests[next(iter(self._digests))]

    def with_others(self, digests: frozenset[bytes]) -> Collection[bytes]:
        """The files, and those of `digests`."""
        return digests.union(self._digests) if digests else self._digests


def find_suspects(turns: Iterable[Turn]) -> list[frozenset[bytes]]:
    """What to leave out of a refused request, one after the other: the files of each kind, then all files.

    Images come last: most models take them. Empty if the request has no files.
    """
    by_kind: dict[str, set[bytes]] = {}
    for file in files_in(turns):
        by_kind.setdefault(file.kind, set()).add(file.digest)
    single = [frozenset(by_kind[kind]) for kind in sorted(by_kind, key=lambda kind: (kind == "image", kind))]
    return [*single, frozenset().union(*single)] if len(single) > 1 else single
