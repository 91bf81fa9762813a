"""The ids of files and their URLs at the gateway. An id names the user and holds the hash of the bytes."""

import hashlib
import re
from typing import NewType

from rejoin_protocol.ids import UserId

FileId = NewType("FileId", str)

FILE_URL_PREFIX = "/api/files/"

_ID = re.compile(r"[0-9a-f]{16}-[0-9a-f]{64}")
_CLIENT_URL = re.compile(rf"(?:(?i:https?)://[^?#]*)?{FILE_URL_PREFIX}({_ID.pattern})(?:[?#].*)?")


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


def is_content_of(data: bytes, id: FileId) -> bool:
    """Whether `data` are the file's bytes."""
    return is_digest_of(hashlib.sha256(data).hexdigest(), id)


def is_digest_of(digest: str, id: FileId) -> bool:
    """Whether `digest` is the SHA-256 of the file's bytes, in hexadecimal."""
    return digest == id.partition("-")[2]


def file_url(id: FileId) -> str:
    """The URL of a file at the gateway, as stored messages contain it."""
    return f"{FILE_URL_PREFIX}{id}"


def parse_stored_url(url: str) -> FileId | None:
    """The file id in a URL as stored messages contain it; None for any other URL, also a signed one."""
    return parse_file_id(url.removeprefix(FILE_URL_PREFIX)) if url.startswith(FILE_URL_PREFIX) else None


def parse_client_url(url: str) -> FileId | None:
    """The file id in a URL of any form that clients send: also absolute, signed, or with a fragment.

    The host is not compared: an id is the hash of the bytes, so the same id at another address is the same
    file.
    """
    match = _CLIENT_URL.fullmatch(url)
    return None if match is None else parse_file_id(match[1])
