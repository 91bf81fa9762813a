"""A message's files, from what a client sends to what is stored: checked all of them, then kept all of them.

A stored message names each file by its URL here, so that neither a request nor a message carries bytes. What
makes one part bad is said of that part, and then nothing is stored. The law of a file is that of
`rejoin_protocol.file_formats`;
here its pixels are decoded as well, in a thread, because a frame that is whole can hold an image that is not.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import structlog
from rejoin_adapters.ports.files import FileStore
from rejoin_adapters.records import Owner
from rejoin_protocol import file_formats
from rejoin_protocol.errors import Invalid, RejoinError, Unavailable
from rejoin_protocol.file_formats import FILES_MAX, FileId
from rejoin_protocol.ids import TenantId

from rejoin_gateway.core.remote_fetch import RemoteFetcher

log = structlog.get_logger("rejoin.attachments")

type Part = dict[str, Any]

IMPORTED_MAX = 100
"""Files of the earlier turns of a new session."""
BYTES_MAX = 64 * 1024 * 1024
"""Of all files of a request, which are in memory together: none is stored before all are good."""
CHECK_TIMEOUT_S = 14.0
"""From a message to the verdict on all of its files, the fetching included."""
CHECKS_MAX = 2
"""Images decoded at once in one gateway, 200 MB each at most."""


class ReceivedFile(msgspec.Struct, frozen=True):
    """A file as a client sent it. `said` is its part without bytes: the same whenever the same is sent, and
    whatever a URL leads to. `data`, with the type that is claimed for it, if it came with the message.
    """

    part: Part
    pointer: str
    said: Part
    data: bytes | None = None
    declared: str = ""


class _CheckedFile(msgspec.Struct, frozen=True):
    """A file that is there and good."""

    data: bytes
    media_type: str


class Attachments:
    """The files of messages. `fetch` gets those that a client only names."""

    def __init__(self, files: FileStore, fetch: RemoteFetcher) -> None:
        self.files = files
        self._fetch = fetch
        self._checks = asyncio.Semaphore(CHECKS_MAX)

    async def read(
        self, parts: Sequence[tuple[str, Part]], owner: Owner, *, files_max: int = FILES_MAX
    ) -> list[ReceivedFile]:
        """Files, each with the pointer of its part, as `turns.user` makes it. Nothing is fetched, judged or
        stored. Raises `Invalid` naming the part.
        """
        if len(parts) > files_max:
            raise Invalid(f"a message has at most {files_max} files", parts[files_max][0])
        return [await asyncio.to_thread(_read, part, pointer, owner) for pointer, part in parts]

    async def stored(self, sent: Sequence[ReceivedFile], owner: Owner, *, remote: bool) -> list[Part]:
        """The parts with their files stored, once all of them are good.

        `remote`: whether http and https URLs are fetched. Raises `Invalid` naming the part, `Limited` and
        `Unavailable`.
        """
        found = await _RequestFiles(self, owner, remote=remote).all(sent)
        return [
            one.part if file is None else await self._keep(owner, one.part, file)
            for one, file in zip(sent, found, strict=True)
        ]

    async def _keep(self, owner: Owner, part: Part, file: _CheckedFile) -> Part:
        id = await self.files.put(owner.tenant, owner.user, file.data, file.media_type)
        log.info("file_stored", file=id, media_type=file.media_type, size_bytes=len(file.data))
        return part | {"mediaType": file.media_type, "url": file_formats.file_url(id)}

    async def check(self, data: bytes, *claims: str | None) -> str:
        """The media type of a file that is whole and what it claims to be. Raises `Invalid`."""
        media_type = await asyncio.to_thread(file_formats.check_file, data, *claims)
        if media_type.startswith("image/"):
            async with self._checks:
                await asyncio.to_thread(_decode, data, media_type)
        return media_type

    async def get(self, url: str, tenant: TenantId) -> _CheckedFile:
        """What a remote URL leads to. Raises `Invalid`."""
        fetched = await self._fetch.get(url, tenant)
        return _CheckedFile(fetched.data, fetched.media_type)


def _read(part: Part, pointer: str, owner: Owner) -> ReceivedFile:
    url = part["url"]
    if not url.startswith("data:"):
        return ReceivedFile(part, pointer, part)
    try:
        declared, data = file_formats.parse_data_url(url)
    except Invalid as fault:
        raise Invalid(fault.detail, pointer) from fault
    stored = {
        "mediaType": file_formats.detect_media_type(data),
        "url": file_formats.file_url(file_formats.file_id(owner.user, data)),
    }
    return ReceivedFile(part, pointer, part | stored, data, declared)


class _RequestFiles:
    """One request's files."""

    def __init__(self, attachments: Attachments, owner: Owner, *, remote: bool) -> None:
        self._attachments = attachments
        self._owner = owner
        self._remote = remote
        self._bytes = 0

    async def all(self, sent: Sequence[ReceivedFile]) -> list[_CheckedFile | None]:
        """The files that are to be stored, in order; None for one that is stored already."""
        found: dict[int, _CheckedFile | None] = {}

        async def one(number: int, file: ReceivedFile) -> None:
            try:
                async with asyncio.timeout(CHECK_TIMEOUT_S):
                    found[number] = await self._file(file)
            except Invalid as fault:
                raise Invalid(fault.detail, file.pointer) from fault
            except TimeoutError:
                raise Unavailable("files cannot be checked now: there are too many") from None

        try:
            async with asyncio.TaskGroup() as group:
                for number, file in enumerate(sent):
                    group.create_task(one(number, file))
        except* RejoinError as faults:
            known = list(_leaves(faults))
            raise next((one for one in known if isinstance(one, Invalid)), known[0]) from None
        return [found[number] for number in range(len(sent))]

    async def _file(self, sent: ReceivedFile) -> _CheckedFile | None:
        url, claim = sent.part["url"], sent.part.get("mediaType")
        if (id := file_formats.parse_file_url(url)) is not None:
            await self._known(id, claim)
            return None
        if sent.data is not None:
            declared, data = sent.declared, sent.data
        elif self._remote:
            fetched = await self._attachments.get(url, self._owner.tenant)
            declared, data = fetched.media_type, fetched.data
        else:
            raise Invalid("a file's URL is a data URL here")
        self._bytes += len(data)
        if self._bytes > BYTES_MAX:
            raise Invalid(f"the files of a request have at most {BYTES_MAX} bytes together")
        return _CheckedFile(data, await self._attachments.check(data, claim, declared))

    async def _known(self, id: FileId, claim: str | None) -> None:
        """A stored file, which from now on stays for as long as it takes to store the message."""
        files, tenant = self._attachments.files, self._owner.tenant
        mine = file_formats.is_visible_to(id, self._owner.user) and await files.touch(tenant, id)
        known = await files.get(tenant, id) if mine else None
        if known is None:
            raise Invalid("there is no such file")
        if claim and file_formats.normalize_media_type(claim) != known.media_type:
            raise Invalid(f"it is {known.media_type}")


def _leaves(faults: BaseExceptionGroup[RejoinError]) -> Iterator[RejoinError]:
    for fault in faults.exceptions:
        if isinstance(fault, BaseExceptionGroup):
            yield from _leaves(fault)
        else:
            yield fault


def _decode(data: bytes, media_type: str) -> None:
    from rejoin_gateway.core import image_check  # the first image brings the codecs

    image_check.decode(data, media_type)
