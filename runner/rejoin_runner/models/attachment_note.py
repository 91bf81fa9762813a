"""The sentence that stands for a file that a model does not get: what was there, and why it is not. Pure."""

from typing import Any

from rejoin_protocol.limits import KIB, MIB


def note_of(part: dict[str, Any], why: str, size_bytes: int | None = None) -> str:
    """The note about a file part. `why` ends the sentence: `is not there any more`. `size_bytes`: None if
    nobody knows it.
    """
    name = str(part.get("filename") or "of this message")
    known = [str(part.get("mediaType") or ""), "" if size_bytes is None else _size(size_bytes)]
    details = ", ".join(filter(None, known))
    return f"[The attachment {name}{f' ({details})' if details else ''} {why}.]"


def _size(size_bytes: int) -> str:
    if size_bytes < KIB:
        return f"{size_bytes} bytes"
    return f"{size_bytes / KIB:.0f} KiB" if size_bytes < MIB else f"{size_bytes / MIB:.1f} MiB"
