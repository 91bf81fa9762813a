"""Attachments: accepted media types, checked by the file's bytes; where an image ends; data URLs.

Decodes no pixels. Checks the framing of each format: PNG chunks up to `IEND`, JPEG segments up to `EOI` (a
multi-picture file, CIPA DC-007, has several images), WebP's RIFF length, GIF's blocks up to the trailer. An
image that ends early is truncated. Phones write bytes behind the end, for example a video: `trim` removes
them, so that no second file hides there. A PDF needs `%PDF-` only. A text needs a declared type or a known
file name, and must be UTF-8 without control characters.
"""

import base64
import re
from collections.abc import Iterator
from contextlib import suppress
from types import MappingProxyType
from urllib.parse import unquote, unquote_to_bytes

from rejoin_protocol.errors import Invalid
from rejoin_protocol.limits import FILE_BYTES_MAX

PNG = "image/png"
JPEG = "image/jpeg"
WEBP = "image/webp"
GIF = "image/gif"
PDF = "application/pdf"
MARKDOWN = "text/markdown"
CSV = "text/csv"
JSON = "application/json"
TEXT = "text/plain"
BINARY_TYPES = frozenset({PNG, JPEG, WEBP, GIF, PDF})
REMOTE_TYPES = frozenset({PNG, JPEG, WEBP, PDF})
"""The types that the gateway fetches from a remote URL. It takes the others by data URL only."""
ACCEPTED = "png, jpeg, webp and gif images, PDF and text are accepted"

TEXT_FILE_BYTES_MAX = 256 * 1024
"""The size of one text file. A model reads all of it."""
APPLICATION_TEXT_TYPES = frozenset(
    f"application/{name}"
    for name in (
        "graphql",
        "javascript",
        "json",
        "json5",
        "sql",
        "toml",
        "typescript",
        "x-ndjson",
        "x-powershell",
        "x-sh",
        "x-yaml",
        "xml",
        "yaml",
    )
)
UNSPECIFIC_TYPES = frozenset({"application/octet-stream", "binary/octet-stream"})
"""The types that browsers and servers send for a file whose type they do not know. They count as no claim."""
EXTENSION_TYPES = MappingProxyType(
    {
        "csv": CSV,
        "json": JSON,
        "log": TEXT,
        "markdown": MARKDOWN,
        "md": MARKDOWN,
        "tsv": "text/tab-separated-values",
        "txt": TEXT,
    }
)
"""Types of texts by file name: browsers know no media type for Markdown and the like."""

IMAGE_BLOCKS_MAX = 100_000
"""Chunks, segments or blocks of one image. Real images have some thousand."""

_TEXT_TYPE = re.compile(r"text/[a-z0-9][a-z0-9.+-]{0,63}")
_STRUCTURED_TYPE = re.compile(r"application/[a-z0-9][a-z0-9.-]{0,63}\+(?:json|xml|yaml)")
_BINARY_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_JPEG_PICTURES = re.compile(rb"\xff\xe2..MPF\0", re.DOTALL)
"""The index of a multi-picture file, in an APP2 segment of its first picture."""
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # neither stuffing nor fill nor restart
_ZEROS = re.compile(rb"\0*")
_BASE64_SPELLINGS = str.maketrans("-_", "+/", "\t\n\f\r ")
_ZIP_END = b"PK\x05\x06"
_ZIP_END_BYTES = 22
_ZIP_COMMENT_MAX = 0xFFFF
_EOI = 0xD9


def to_data_url(media_type: str, data: bytes) -> str:
    """The file as a data URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def parse_data_url(url: str) -> tuple[str, bytes]:
    """The declared media type ("" if none) and the bytes. Raises `Invalid` for other URLs and large files.

    Base64 may have line breaks, lack padding, and use the alphabet for URLs (RFC 4648, section 5).
    """
    head, comma, body = url.partition(",")
    if not url.startswith("data:") or not comma:
        raise Invalid("not a data URL")
    media_type, *parameters = head.removeprefix("data:").split(";")
    if not parameters or parameters[-1].strip().lower() != "base64":
        return media_type, unquote_to_bytes(body)
    return media_type, _decode_base64(unquote(body) if "%" in body else body)


def _decode_base64(body: str) -> bytes:
    if len(body) // 4 * 3 <= FILE_BYTES_MAX + 3:
        with suppress(ValueError):  # most senders write it plainly; the other spellings cost a copy
            return base64.b64decode(body, validate=True)
    body = body.translate(_BASE64_SPELLINGS).rstrip("=")
    if len(body) // 4 * 3 > FILE_BYTES_MAX + 3:  # before it is decoded
        raise too_large_error()
    try:
        return base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
    except ValueError as fault:
        raise Invalid(f"not base64: {fault}") from fault


def too_large_error() -> Invalid:
    """The error for a file that is too large."""
    return Invalid(f"a file has at most {FILE_BYTES_MAX} bytes")


def normalize_media_type(media_type: str) -> str:
    """A media type without parameters, in its usual spelling."""
    plain = media_type.partition(";")[0].strip().lower()
    return JPEG if plain == "image/jpg" else plain


def is_text(media_type: str) -> bool:
    """Whether files of this type are texts, which a model gets as text."""
    return (
        _TEXT_TYPE.fullmatch(media_type) is not None
        or _STRUCTURED_TYPE.fullmatch(media_type) is not None
        or media_type in APPLICATION_TEXT_TYPES
        or media_type == "message/rfc822"
    )


def is_acceptable_claim(claim: str | None, media_type: str) -> bool:
    """Whether a client may call a file of this type `claim`. Any text may be called any kind of text."""
    claimed = normalize_media_type(claim or "")
    is_both_text = is_text(media_type) and is_text(claimed)
    return not claimed or claimed in UNSPECIFIC_TYPES or claimed == media_type or is_both_text


def decode_text(data: bytes) -> str:
    """A text's characters, each line break a single LF. Raises `Invalid` unless it is UTF-8 without control
    characters.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise Invalid("it is not text in UTF-8") from fault
    if _BINARY_CONTROL.search(text):
        raise Invalid("it has control characters: it is not text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_file(data: bytes, *claims: str | None, filename: str = "") -> str:
    """The media type of a trimmed file by its bytes. All given `claims` must fit it.

    `filename` gives the type of a text that has no claim. Raises `Invalid` for a file that is too large, not
    accepted, truncated, or more than one file.
    """
    if len(data) > FILE_BYTES_MAX:
        raise too_large_error()
    claimed = [name for claim in claims if claim and (name := normalize_media_type(claim))]
    claimed = [name for name in claimed if name not in UNSPECIFIC_TYPES]
    kind = guess_media_type(data, *claimed, filename=filename)
    for claim in claimed:
        if claim not in BINARY_TYPES and not is_text(claim):
            raise Invalid(f"{claim[:100]!r} is not supported: {ACCEPTED}")
        if kind is None or not is_acceptable_claim(claim, kind):
            raise Invalid(f"the bytes are not {claim}")
    if kind is None:
        raise Invalid(f"the bytes are of no accepted type: {ACCEPTED}")
    if is_text(kind):
        if len(data) > TEXT_FILE_BYTES_MAX:
            raise Invalid(f"a text has at most {TEXT_FILE_BYTES_MAX} bytes")
        decode_text(data)
    else:
        _check_end(data, kind)
    return kind


def guess_media_type(data: bytes, *claims: str | None, filename: str = "") -> str | None:
    """The media type by the first bytes, else the first claim if it is a text's, else by the file name."""
    kind = detect_media_type(data)
    if kind is not None:
        return kind
    named = [normalize_media_type(claim) for claim in claims if claim]
    known = [claim for claim in named if claim not in UNSPECIFIC_TYPES]
    if not known:
        return EXTENSION_TYPES.get(filename.rpartition(".")[2].lower()) if "." in filename else None
    return known[0] if is_text(known[0]) else None


def detect_media_type(data: bytes) -> str | None:
    """The media type by the first bytes; None for texts and unknown files."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if data.startswith(b"\xff\xd8\xff"):
        return JPEG
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WEBP
    if data.startswith((b"GIF87a", b"GIF89a")):
        return GIF
    return PDF if data.startswith(b"%PDF-") else None


def trim(data: bytes) -> bytes:
    """The file without the bytes behind an image's end. A truncated image is returned unchanged."""
    end = _end_offset(data, detect_media_type(data))
    return data if end is None else data[:end]


def _check_end(data: bytes, kind: str) -> None:
    end = _end_offset(data, kind)
    if end is None or end > len(data):
        raise Invalid("it is truncated or damaged: its end is missing")
    if end < len(data):
        raise Invalid(f"it has {len(data) - end} bytes behind its end")
    if _is_zip(data):
        raise Invalid("it is a ZIP archive as well")


def _end_offset(data: bytes, kind: str | None) -> int | None:
    """The offset of the end of an image; None if it has no end. Other files end with their bytes."""
    match kind:
        case "image/png":
            return _png_end(data)
        case "image/jpeg":
            return _jpeg_end(data)
        case "image/webp":
            size = int.from_bytes(data[4:8], "little")
            return 8 + size + size % 2
        case "image/gif":
            return _gif_end(data)
        case _:
            return len(data)


def _png_end(data: bytes) -> int | None:
    offset = 8
    for _ in range(IMAGE_BLOCKS_MAX):
        size, name = int.from_bytes(data[offset : offset + 4]), data[offset + 4 : offset + 8]
        offset += 12 + size
        if not name:
            return None
        if name == b"IEND":
            return offset
    return None


def _jpeg_end(data: bytes) -> int | None:
    """The end of the last whole picture: the only one, unless the first one has an index of several."""
    segments = iter(range(IMAGE_BLOCKS_MAX))
    end = _jpeg_image_end(data, 2, segments)
    if end is None or not _JPEG_PICTURES.search(data, 0, end):
        return end
    while True:
        padding = _ZEROS.match(data, end)
        offset = padding.end() if padding else end
        following = (
            _jpeg_image_end(data, offset + 2, segments) if data.startswith(b"\xff\xd8\xff", offset) else None
        )
        if following is None:
            return end
        end = following


def _jpeg_image_end(data: bytes, offset: int, segments: Iterator[int]) -> int | None:
    for _ in segments:
        marker = _JPEG_MARKER.search(data, offset)
        if marker is None:
            return None
        if data[marker.end() - 1] == _EOI:
            return marker.end()
        offset = marker.end() + max(int.from_bytes(data[marker.end() : marker.end() + 2]), 2)
    return None


def _gif_end(data: bytes) -> int | None:
    offset, blocks = 13 + _gif_colours(data[10:11]), iter(range(IMAGE_BLOCKS_MAX))
    for _ in blocks:
        match data[offset : offset + 1]:
            case b";":
                return offset + 1
            case b"!":  # an extension block: its label, then data
                offset += 2
            case b",":  # an image descriptor of 10 bytes, its colour table, the code size, then data
                offset += 11 + _gif_colours(data[offset + 9 : offset + 10])
            case _:
                return None
        while size := int.from_bytes(data[offset : offset + 1]):
            offset += 1 + size
            if next(blocks, None) is None:
                return None
        offset += 1
    return None


def _gif_colours(flags: bytes) -> int:
    """The bytes of a colour table, by the flags of the screen or image that has it."""
    bits = int.from_bytes(flags)
    return 3 * 2 ** (bits % 8 + 1) if bits & 0x80 else 0


def _is_zip(data: bytes) -> bool:
    """Whether the file ends as a ZIP archive does; readers look for an archive from the end."""
    offset = data.rfind(_ZIP_END, max(0, len(data) - _ZIP_COMMENT_MAX - _ZIP_END_BYTES))
    return offset >= 0 and offset + _ZIP_END_BYTES + int.from_bytes(
        data[offset + 20 : offset + 22], "little"
    ) == len(data)
