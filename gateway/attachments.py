"""A message's files, from what a client sends to what is stored: checked all of them, then kept all of them.

A stored message names each file by its URL here, so that neither a request nor a message carries bytes. What
makes one part bad is said of that part, and then nothing is stored. The law of a file is `protocol.media`'s;
here its pixels are decoded as well, in a thread, because a frame that is whole can hold an image that is not.
"""

import asyncio
import io
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import structlog
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from gateway.fetch import Fetch
from protocol import media
from protocol.adapters.files import Files
from protocol.adapters.ports import Owner
from protocol.errors import Invalid, RejoinError, Unavailable
from protocol.media import FILES_MAX

log = structlog.get_logger("rejoin.attachments")

type Part = dict[str, Any]

PIXELS_MAX = 50_000_000
"""Of all frames of an image: a phone's largest. Four bytes each while it is looked at."""
BYTES_MAX = 64 * 1024 * 1024
"""Of all files of a message, which are in memory together: none is stored before all are good."""
CHECK_TIMEOUT_S = 14.0
"""From a message to the verdict on all of its files, the fetching included."""
CHECKS_MAX = 2
"""Images decoded at once in one gateway, 200 MB each at most."""
FORMATS = {
    media.PNG: PngImagePlugin.PngImageFile.format,
    media.JPEG: JpegImagePlugin.JpegImageFile.format,
    media.WEBP: WebPImagePlugin.WebPImageFile.format,
}


class Stored(msgspec.Struct, frozen=True):
    """`parts` as they are stored; `said` is the same whenever the same is sent, whatever a URL leads to."""

    parts: list[Part]
    said: list[Part]


class _File(msgspec.Struct, frozen=True):
    """A file that is there and good."""

    data: bytes
    media_type: str


class Attachments:
    """The files of messages. `fetch` gets those that a client only names."""

    def __init__(self, files: Files, fetch: Fetch) -> None:
        self.files = files
        self._fetch = fetch
        self._checks = asyncio.Semaphore(CHECKS_MAX)

    async def stored(self, parts: Sequence[Part], pointer: str, owner: Owner, *, remote: bool) -> Stored:
        """A user's parts, as `turns.user` makes them, with their files stored.

        `remote`: whether http and https URLs are fetched. `pointer` is that of the message. Raises `Invalid`
        naming the part, and `Unavailable`.
        """
        numbers = [number for number, part in enumerate(parts) if part["type"] == "file"]
        if not numbers:
            return Stored(list(parts), list(parts))
        if len(numbers) > FILES_MAX:
            at = f"{pointer}/parts/{numbers[FILES_MAX]}"
            raise Invalid(f"a message has at most {FILES_MAX} files", at)
        checking = _Checking(self, owner, remote=remote)
        found = await checking.all({number: parts[number] for number in numbers}, f"{pointer}/parts")
        kept, said = list(parts), list(parts)
        for number, file in found.items():
            if file is not None:
                kept[number] = await self._keep(owner, parts[number], file)
            said[number] = parts[number] if _is_remote(parts[number]) else kept[number]
        return Stored(kept, said)

    async def _keep(self, owner: Owner, part: Part, file: _File) -> Part:
        id = await self.files.put(owner.tenant, owner.user, file.data, file.media_type)
        log.info("file_stored", file=id, media_type=file.media_type, size_bytes=len(file.data))
        return part | {"mediaType": file.media_type, "url": media.url_of(id)}

    async def check(self, data: bytes, *claims: str | None) -> str:
        """The media type of a file that is whole and what it claims to be. Raises `Invalid`."""
        media_type = await asyncio.to_thread(media.check, data, *claims)
        if media_type in FORMATS:
            async with self._checks:
                await asyncio.to_thread(decode, data, media_type)
        return media_type

    async def get(self, url: str) -> _File:
        """What a remote URL leads to. Raises `Invalid`."""
        fetched = await self._fetch.get(url)
        return _File(fetched.data, fetched.media_type)


class _Checking:
    """One message's files."""

    def __init__(self, attachments: Attachments, owner: Owner, *, remote: bool) -> None:
        self._attachments = attachments
        self._owner = owner
        self._remote = remote
        self._bytes = 0

    async def all(self, parts: dict[int, Part], pointer: str) -> dict[int, _File | None]:
        """By number, the files that are to be stored; None for one that is stored already."""
        found: dict[int, _File | None] = {}

        async def one(number: int, part: Part) -> None:
            try:
                async with asyncio.timeout(CHECK_TIMEOUT_S):
                    found[number] = await self._file(part)
            except Invalid as fault:
                raise Invalid(fault.detail, f"{pointer}/{number}") from fault
            except TimeoutError:
                raise Unavailable("files cannot be checked now: there are too many") from None

        try:
            async with asyncio.TaskGroup() as group:
                for number, part in parts.items():
                    group.create_task(one(number, part))
        except* RejoinError as faults:
            known = list(_leaves(faults))
            raise next((one for one in known if isinstance(one, Invalid)), known[0]) from None
        return found

    async def _file(self, part: Part) -> _File | None:
        url, claim = part["url"], part.get("mediaType")
        if (id := media.id_in(url)) is not None:
            known = media.belongs(id, self._owner.user) and await self._attachments.files.get(
                self._owner.tenant, id
            )
            if not known:
                raise Invalid("there is no such file")
            if claim and media.plain_type(claim) != known.media_type:
                raise Invalid(f"it is {known.media_type}")
            return None
        if url.startswith("data:"):
            declared, data = await asyncio.to_thread(media.parse_data_url, url)
        elif self._remote:
            fetched = await self._attachments.get(url)
            declared, data = fetched.media_type, fetched.data
        else:
            raise Invalid("a file's URL is a data URL here")
        self._bytes += len(data)
        if self._bytes > BYTES_MAX:
            raise Invalid(f"the files of a message have at most {BYTES_MAX} bytes together")
        return _File(data, await self._attachments.check(data, claim, declared))


def _is_remote(part: Part) -> bool:
    return not part["url"].startswith(("data:", media.URL))


def _leaves(faults: BaseExceptionGroup[RejoinError]) -> Iterator[RejoinError]:
    for fault in faults.exceptions:
        if isinstance(fault, BaseExceptionGroup):
            yield from _leaves(fault)
        else:
            yield fault


def decode(data: bytes, media_type: str) -> None:
    """Decode an image to its last pixel and forget it. Raises `Invalid` for one that is broken or a bomb."""
    try:
        with Image.open(io.BytesIO(data), formats=[FORMATS[media_type]]) as image:
            width, height = image.size
            frames = 1 if media_type == media.JPEG else getattr(image, "n_frames", 1)
            if width * height * frames > PIXELS_MAX:
                raise Invalid(f"an image has at most {PIXELS_MAX} pixels, not {width}x{height}x{frames}")
            for number in range(frames):
                image.seek(number)
                image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Invalid(f"an image has at most {PIXELS_MAX} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, ArithmeticError, LookupError, TypeError) as fault:
        raise Invalid("the image cannot be decoded: it is truncated or damaged") from fault
