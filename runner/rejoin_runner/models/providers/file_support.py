"""Which files a model cannot take. Pure.

pydantic-ai's profiles know whether a model reads images and documents at all; what else a provider's
pages exclude is listed here. A file that a model refuses would make every later request of its session
fail, because the history is sent with each of them; so it is replaced by a note.
"""

from types import MappingProxyType

from pydantic_ai.profiles import ModelProfile

from rejoin_protocol.file_formats import BINARY_TYPES, GIF, PDF, WEBP

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
