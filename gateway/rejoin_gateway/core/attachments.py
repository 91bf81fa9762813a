"""A message's files: checked and stored, so that a stored message names each file by a URL of this gateway.

Neither run requests nor stored messages carry file bytes. If one file of a request is bad, the error names
its part and none of the files is stored. `rejoin_protocol.file_formats` says which files are good, and where
an image ends: what is behind is cut off before anything else is done with the file. Images are decoded as
well, in `images`, because a well-formed container can hold a damaged picture.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import structlog

from rejoin_adapters.ports.files import FileStore, OpenFile
from rejoin_adapters.store_types import Owner
from rejoin_gateway.core import message_input
from rejoin_gateway.core.message_input import ImportedTurn
from rejoin_gateway.core.remote_fetch import RemoteFetcher
from rejoin_gateway.images.image_pool import ImagePool
from rejoin_protocol import file_formats, file_ids
from rejoin_protocol.errors import Invalid, RejoinError, Unavailable
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.file_ids import FileId
from rejoin_protocol.ids import TenantId
from rejoin_protocol.limits import FILES_BYTES_MAX, FILES_MAX, IMPORTED_FILES_MAX

log = structlog.get_logger("rejoin.attachments")

type Part = dict[str, Any]

FILE_CHECK_TIMEOUT_S = 14.0
"""For one file, fetching and waiting for a decoder included."""


class ReceivedFile(msgspec.Struct, frozen=True):
    """A file as a client sent it.

    `part` is the message part, `pointer` its JSON pointer. `digest_part` is what the request's digest covers:
    the part without bytes, equal for equal requests. `data` are the bytes of a data URL and `declared` the
    media type in it; both are empty for a remote URL or a stored file. `stored` is the file that a URL of
    this gateway names.
    """

    part: Part
    pointer: str
    digest_part: Part
    data: bytes | None = None
    declared: str = ""
    stored: FileId | None = None
    is_earlier: bool = False
    refused: Invalid | None = None
    """Why a file of an earlier turn cannot be taken. One of the message itself refuses the request."""


class _CheckedFile(msgspec.Struct, frozen=True):
    data: bytes
    media_type: str


class Attachments:
    """Checks and stores the files of messages. `fetcher` gets files at remote URLs, `images` decodes."""

    def __init__(self, files: FileStore, fetcher: RemoteFetcher, images: ImagePool) -> None:
        self.files = files
        self.fetcher = fetcher
        self.images = images

    async def open(self, tenant: TenantId, id: FileId) -> OpenFile | None:
        """A stored file, to be read in chunks. Raises `Unavailable`."""
        return await self.files.open(tenant, id)

    async def read(self, parts: Sequence[tuple[str, Part]], owner: Owner) -> list[ReceivedFile]:
        """Decode the data URLs of file parts, each given after its JSON pointer. Fetches and stores nothing.

        The parts have the form that `message_input.build_user_message` gives them. Raises `Invalid` with the
        pointer of the part.
        """
        if len(parts) > FILES_MAX:
            raise Invalid(f"a message has at most {FILES_MAX} files", parts[FILES_MAX][0])
        return [await asyncio.to_thread(_read_part, part, pointer, owner) for pointer, part in parts]

    async def read_earlier(self, parts: Sequence[tuple[str, Part]], owner: Owner) -> list[ReceivedFile]:
        """Like `read`, for the files of earlier turns. None of them refuses the request: see
        `message_input.build_imported_turns`. Only the newest `IMPORTED_FILES_MAX` are taken.
        """
        too_many = max(0, len(parts) - IMPORTED_FILES_MAX)
        refused = Invalid(f"only the newest {IMPORTED_FILES_MAX} files of earlier messages are taken")
        return [
            *[
                ReceivedFile(part, pointer, part, is_earlier=True, refused=refused)
                for pointer, part in parts[:too_many]
            ],
            *[
                await asyncio.to_thread(_read_earlier, part, pointer, owner)
                for pointer, part in parts[too_many:]
            ],
        ]

    async def store(self, received: Sequence[ReceivedFile], owner: Owner, *, fetch_urls: bool) -> list[Part]:
        """Store the files once all of them are checked; the parts, with the URLs of the stored files.

        `fetch_urls`: fetch files at http and https URLs. Raises `Invalid` with the pointer of the part,
        `Limited` and `Unavailable`. A text stands for a file of an earlier turn that cannot be taken.
        """
        checked = await _RequestFiles(self, owner, fetch_urls=fetch_urls).check_all(received)
        return [
            await self._put_or_note(owner, file, content)
            for file, content in zip(received, checked, strict=True)
        ]

    async def _put_or_note(
        self, owner: Owner, file: ReceivedFile, content: "_CheckedFile | str | Invalid"
    ) -> Part:
        match content:
            case _CheckedFile():
                return await self._put(owner, file.part, content)
            case str(media_type):
                return file.digest_part | {"mediaType": media_type}
            case fault:
                return message_input.refused_note(file.part, fault)

    async def _put(self, owner: Owner, part: Part, file: _CheckedFile) -> Part:
        id = await self.files.put(owner.tenant, owner.user, file.data, file.media_type)
        log.info("file_stored", file=id, media_type=file.media_type, size_bytes=len(file.data))
        return part | {"mediaType": file.media_type, "url": file_ids.file_url(id)}

    async def check(self, data: bytes, tenant: TenantId, *claims: str | None, filename: str = "") -> str:
        """The media type of a complete file. Raises `Invalid` if it is damaged or not what `claims` say."""
        media_type = await asyncio.to_thread(file_formats.check_file, data, *claims, filename=filename)
        if media_type.startswith("image/"):
            await self.images.check(data, media_type, tenant)
        return media_type

    async def fetch(self, url: str, tenant: TenantId) -> _CheckedFile:
        """The file at a remote URL. Raises `Invalid`."""
        fetched = await self.fetcher.get(url, tenant)
        return _CheckedFile(await asyncio.to_thread(file_formats.trim, fetched.data), fetched.media_type)


def _read_part(part: Part, pointer: str, owner: Owner) -> ReceivedFile:
    url = part["url"]
    if not url.startswith("data:"):
        stored = file_ids.parse_client_url(url)
        # Signed and absolute forms of one file's URL are one request: the signature changes from day to day.
        digest_part = part if stored is None else part | {"url": file_ids.file_url(stored)}
        return ReceivedFile(part, pointer, digest_part, stored=stored)
    try:
        declared, data = file_formats.parse_data_url(url)
    except Invalid as fault:
        raise Invalid(fault.detail, pointer) from fault
    data = file_formats.trim(data)
    claim, filename = part.get("mediaType"), part.get("filename", "")
    digest_part = part | {
        "mediaType": file_formats.guess_media_type(data, claim, declared, filename=filename),
        "url": file_ids.file_url(file_ids.file_id(owner.user, data)),
    }
    return ReceivedFile(part, pointer, digest_part, data, declared)


def _read_earlier(part: Part, pointer: str, owner: Owner) -> ReceivedFile:
    try:
        return msgspec.structs.replace(_read_part(part, pointer, owner), is_earlier=True)
    except Invalid as fault:
        return ReceivedFile(part, pointer, part, is_earlier=True, refused=fault)


class _RequestFiles:
    """The files of one request, checked at the same time."""

    def __init__(self, attachments: Attachments, owner: Owner, *, fetch_urls: bool) -> None:
        self._attachments = attachments
        self._owner = owner
        self._fetch_urls = fetch_urls
        self._bytes = 0

    async def check_all(self, received: Sequence[ReceivedFile]) -> list[_CheckedFile | str | Invalid]:
        """The files to store, in order; for a file that is stored already its media type; why a file of an
        earlier turn is not taken.
        """
        checked: dict[int, _CheckedFile | str | Invalid] = {}

        async def check_one(number: int, file: ReceivedFile) -> None:
            try:
                async with asyncio.timeout(FILE_CHECK_TIMEOUT_S):
                    checked[number] = file.refused or await self._check_file(file)
            except Invalid as fault:
                if not file.is_earlier:
                    raise Invalid(fault.detail, file.pointer) from fault
                checked[number] = fault
            except TimeoutError:
                if not file.is_earlier:
                    raise Unavailable("files cannot be checked now: there are too many") from None
                checked[number] = Invalid("it could not be checked in time")

        try:
            async with asyncio.TaskGroup() as group:
                for number, file in enumerate(received):
                    group.create_task(check_one(number, file))
        except* RejoinError as faults:
            errors = list(_flatten(faults))
            raise next((fault for fault in errors if isinstance(fault, Invalid)), errors[0]) from None
        return [checked[number] for number in range(len(received))]

    async def _check_file(self, received: ReceivedFile) -> _CheckedFile | str:
        url, claim = received.part["url"], received.part.get("mediaType")
        stored = None if received.stored is None else await self._find_stored(received.stored, claim)
        if stored is not None:
            return stored
        if received.data is not None:
            declared, data = received.declared, received.data
        elif url.startswith(file_ids.FILE_URL_PREFIX):
            raise Invalid("there is no such file")
        elif self._fetch_urls:
            fetched = await self._attachments.fetch(url, self._owner.tenant)
            declared, data = fetched.media_type, fetched.data
        else:
            raise Invalid("a file's URL is a data URL here")
        self._bytes += len(data)
        if self._bytes > FILES_BYTES_MAX:
            raise Invalid(f"the files of a request have at most {FILES_BYTES_MAX} bytes together")
        filename = received.part.get("filename", "")
        media_type = await self._attachments.check(
            data, self._owner.tenant, claim, declared, filename=filename
        )
        if received.data is None and media_type not in file_formats.REMOTE_TYPES:
            raise Invalid(f"a file of type {media_type} is taken by data URL only")
        return _CheckedFile(data, media_type)

    async def _find_stored(self, id: FileId, claim: str | None) -> str | None:
        """The media type of the owner's file, which is kept until the message is stored (`touch`). None if
        the owner has no such file. Raises `Invalid` if it is not what `claim` says.
        """
        files, tenant = self._attachments.files, self._owner.tenant
        is_owned = file_ids.is_visible_to(id, self._owner.user) and await files.touch(tenant, id)
        file = await files.get(tenant, id) if is_owned else None
        if file is None:
            return None
        if not file_formats.is_acceptable_claim(claim, file.media_type):
            raise Invalid(f"the file is {file.media_type}")
        return file.media_type


def _flatten(faults: BaseExceptionGroup[RejoinError]) -> Iterator[RejoinError]:
    for fault in faults.exceptions:
        if isinstance(fault, BaseExceptionGroup):
            yield from _flatten(fault)
        else:
            yield fault


def file_parts(turn: ImportedTurn) -> list[tuple[str, Part]]:
    """The turn's file parts, each after the JSON pointer of its place in the request."""
    parts = zip(turn.places, turn.message["parts"], strict=True)
    return [(place, part) for place, part in parts if part["type"] == "file"]


def with_files(message: MessageDict, files: Sequence[Part]) -> MessageDict:
    """The message with its file parts replaced by `files`, in order."""
    rest = iter(files)
    return message | {"parts": [next(rest) if part["type"] == "file" else part for part in message["parts"]]}


def without_files(turns: Sequence[ImportedTurn]) -> list[ImportedTurn]:
    """The turns without their file parts. Turns with nothing else are left out."""
    return [
        ImportedTurn(turn.message | {"parts": parts}, [""] * len(parts))
        for turn in turns
        if (parts := [part for part in turn.message["parts"] if part["type"] != "file"])
    ]
