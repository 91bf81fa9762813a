"""Attachments: accepted media types, checked by the file's bytes; ids, URLs and limits.

Decodes no pixels. Checks the framing of each format: PNG chunks up to `IEND`, JPEG segments up to `EOI` (a
multi-picture file has several images), WebP's RIFF length, PDF's `%PDF-` and last `%%EOF`. A file that ends
early is truncated. A file with bytes behind its end, or that is a ZIP archive as well, is refused as two
files in one.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from typing import NewType
from urllib.parse import unquote_to_bytes

from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import UserId

FileId = NewType("FileId", str)

FILE_BYTES_MAX = 10 * 1024 * 1024
FILES_MAX = 20
"""Files of one message."""

PNG = "image/png"
JPEG = "image/jpeg"
WEBP = "image/webp"
PDF = "application/pdf"
ACCEPTED = "png, jpeg and webp images and PDF are accepted"

URL = "/api/files/"
SEGMENTS_MAX = 100_000
"""Chunks or segments of one image. Real images have some thousand."""

_ID = re.compile(r"[0-9a-f]{16}-[0-9a-f]{64}")
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # neither stuffing nor fill nor restart
_BLANK = re.compile(rb"[\0\t\n\f\r ]*")
_ZEROS = re.compile(rb"\0*")
_ZIP_END = b"PK\x05\x06"
_ZIP_END_BYTES = 22
_ZIP_COMMENT_MAX = 0xFFFF
_EOI = 0xD9


def user_prefix(user: UserId | None) -> str:
    """The part of a file's id that identifies its user; without a user, the tenant."""
    return hashlib.sha256(f"user {user}".encode() if user is not None else b"tenant").hexdigest()[:16]


def file_id(user: UserId | None, data: bytes) -> FileId:
    """The id of a file: the same for the same bytes of the same user."""
    return FileId(f"{user_prefix(user)}-{hashlib.sha256(data).hexdigest()}")


def parse_file_id(text: str) -> FileId | None:
    """A file id, or None if the text is not one."""
    return FileId(text) if _ID.fullmatch(text) else None


def is_visible_to(id: FileId, user: UserId | None) -> bool:
    """Whether a user may see the file. A caller without a user sees all files of the tenant."""
    return user is None or id.partition("-")[0] == user_prefix(user)


def matches(id: FileId, data: bytes) -> bool:
    """Whether these are the file's bytes."""
    return matches_digest(id, hashlib.sha256(data).hexdigest())


def matches_digest(id: FileId, hashed: str) -> bool:
    """Whether this is the SHA-256 of the file's bytes, in hexadecimal."""
    return hashed == id.partition("-")[2]


def file_url(id: FileId) -> str:
    """The URL of a file at the gateway, as stored messages contain it."""
    return f"{URL}{id}"


def parse_file_url(url: str) -> FileId | None:
    """The file id in a URL of a stored message; None for any other URL."""
    return parse_file_id(url.removeprefix(URL)) if url.startswith(URL) else None


def to_data_url(media_type: str, data: bytes) -> str:
    """The file as a data URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def parse_data_url(url: str) -> tuple[str, bytes]:
    """The declared media type ("" if none) and the bytes. Raises `Invalid` for other URLs and large files."""
    head, comma, body = url.partition(",")
    if not url.startswith("data:") or not comma:
        raise Invalid("not a data URL")
    media_type, *parameters = head.removeprefix("data:").split(";")
    inline = bool(parameters) and parameters[-1].strip().lower() == "base64"
    if inline and len(body) // 4 * 3 > FILE_BYTES_MAX + 3:  # checked before decoding
        raise too_large_error()
    data = unquote_to_bytes(body) if not inline or "%" in body else body.encode()
    if not inline:
        return media_type, data
    try:
        return media_type, base64.b64decode(data, validate=True)
    except binascii.Error as fault:
        raise Invalid(f"not base64: {fault}") from fault


def too_large_error() -> Invalid:
    """The error for a file that is too large."""
    return Invalid(f"a file has at most {FILE_BYTES_MAX} bytes")


def normalize_media_type(media_type: str) -> str:
    """A media type without parameters, in its usual spelling."""
    plain = media_type.partition(";")[0].strip().lower()
    return JPEG if plain == "image/jpg" else plain


def check_file(data: bytes, *claims: str | None) -> str:
    """The media type of a file by its bytes. All given `claims` must equal it.

    Raises `Invalid` for a file that is too large, not accepted, truncated, or more than one file.
    """
    if len(data) > FILE_BYTES_MAX:
        raise too_large_error()
    kind = detect_media_type(data)
    for claim in claims:
        if claim and normalize_media_type(claim) not in (PNG, JPEG, WEBP, PDF):
            raise Invalid(f"{claim[:100]!r} is not supported: {ACCEPTED}")
        if claim and normalize_media_type(claim) != kind:
            raise Invalid(f"the bytes are not {normalize_media_type(claim)}")
    if kind is None:
        raise Invalid(f"the bytes are of no accepted type: {ACCEPTED}")
    _check_end(data, kind)
    if _is_zip(data):
        raise Invalid("it is a ZIP archive as well")
    return kind


def detect_media_type(data: bytes) -> str | None:
    """The media type by the first bytes, or None."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if data.startswith(b"\xff\xd8\xff"):
        return JPEG
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WEBP
    return PDF if data.startswith(b"%PDF-") else None


def _check_end(data: bytes, kind: str) -> None:
    match kind:
        case "image/png":
            end = _png_end(data)
        case "image/jpeg":
            end = _jpeg_end(data)
        case "image/webp":
            size = int.from_bytes(data[4:8], "little")
            end = 8 + size + size % 2
        case _:
            end = _pdf_end(data)
    if end is None or end > len(data):
        raise Invalid("it is truncated or damaged: its end is missing")
    if end < len(data):
        raise Invalid(f"it has {len(data) - end} bytes behind its end")


def _png_end(data: bytes) -> int | None:
    at = 8
    for _ in range(SEGMENTS_MAX):
        size, name = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        at += 12 + size
        if not name:
            return None
        if name == b"IEND":
            return at
    return None


def _jpeg_end(data: bytes) -> int | None:
    at = 0
    segments = iter(range(SEGMENTS_MAX))
    while data.startswith(b"\xff\xd8\xff", at):
        end = _jpeg_image_end(data, at + 2, segments)
        if end is None:
            return None
        padding = _ZEROS.match(data, end)
        at = padding.end() if padding else end
    return at


def _jpeg_image_end(data: bytes, at: int, segments: Iterator[int]) -> int | None:
    for _ in segments:
        marker = _JPEG_MARKER.search(data, at)
        if marker is None:
            return None
        if data[marker.end() - 1] == _EOI:
            return marker.end()
        at = marker.end() + max(int.from_bytes(data[marker.end() : marker.end() + 2]), 2)
    return None


def _pdf_end(data: bytes) -> int | None:
    last = data.rfind(b"%%EOF")
    if last < 0:
        return None
    blank = _BLANK.match(data, last + len(b"%%EOF"))
    return blank.end() if blank else None


def _is_zip(data: bytes) -> bool:
    """Whether the file ends as a ZIP archive does; readers look for an archive from the end."""
    at = data.rfind(_ZIP_END, max(0, len(data) - _ZIP_COMMENT_MAX - _ZIP_END_BYTES))
    return at >= 0 and at + _ZIP_END_BYTES + int.from_bytes(data[at + 20 : at + 22], "little") == len(data)
