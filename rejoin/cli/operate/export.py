"""`rejoin export USER`: everything that is stored of a person, as one zip file.

`export.jsonl` has a line for each row of the database, each record of the logs and each recorded call of a
model; `files/` has the bytes of the files. Rows are read at one moment, and at no time are more than a few of
them, or two chunks of a file, in memory. The file gets its name when it is complete.
"""

import asyncio
import mimetypes
import os
import zipfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from rejoin.cli.runs import RunSettings
from rejoin_adapters.files.chunk_store import JetStreamChunkStore
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.postgres.export.user_rows import UserRows
from rejoin_adapters.postgres.runs import run_store
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import RunId, TenantId, UserId
from rejoin_protocol.log.model_call import is_encrypted
from rejoin_protocol.log.record import split_events

ROWS_FILE = "export.jsonl"


class ExportCounts(msgspec.Struct):
    """What an export holds. `missing`: files whose bytes are not stored any more."""

    rows: int = 0
    records: int = 0
    files: int = 0
    missing: int = 0


class UserExport(msgspec.Struct, frozen=True):
    """Copies what is stored of one user to a zip file."""

    rows: UserRows
    log: JetStreamRunLog
    files: JetStreamChunkStore
    tenant: TenantId

    async def write(self, archive: zipfile.ZipFile) -> ExportCounts:
        """Write everything. Raises `Unavailable`."""
        counts = ExportCounts()
        with archive.open(ROWS_FILE, "w", force_zip64=True) as lines:
            async for line in self.rows.lines():
                lines.write(line.encode() + b"\n")
                counts.rows += 1
            async for run in self.rows.runs():
                for kept in (self._records(run), self._model_calls(run)):
                    async for record in kept:
                        lines.write(record + b"\n")
                        counts.records += 1
        async for id in self.rows.files():
            file = await self.files.open(self.tenant, id)
            if file is None:
                counts.missing += 1
                continue
            suffix = mimetypes.guess_extension(file.media_type) or ""
            with archive.open(f"files/{id}{suffix}", "w", force_zip64=True) as copy:
                async for chunk in file.chunks:
                    copy.write(chunk)
            counts.files += 1
        return counts

    async def _records(self, run: RunId) -> AsyncIterator[bytes]:
        """The records of a run's log, while the log is kept: `{"type": "log", "row": …}`."""
        after, more = 0, True
        while more:
            page = await self.log.read(run, after=after)
            for record in page.records:
                row = {
                    "run": run,
                    "sequence": record.seq,
                    "events": [msgspec.Raw(event) for event in split_events(record)],
                }
                yield msgspec.json.encode({"type": "log", "row": row})
                after = record.seq
            more = page.more and bool(page.records)

    async def _model_calls(self, run: RunId) -> AsyncIterator[bytes]:
        """The recorded calls of a run's models, as they are stored; encrypted ones as base64."""
        after, more = 0, True
        while more:
            page = await self.log.model_calls(run, after=after)
            for stored in page.calls:
                call = stored if is_encrypted(stored) else msgspec.Raw(stored)
                yield msgspec.json.encode({"type": "model_call", "row": {"run": run, "call": call}})
            after, more = page.next, page.next > 0


async def export_user(settings: RunSettings, user: UserId, output: Path) -> ExportCounts:
    """Write `output`. Raises `Invalid` if that is not possible, `Unavailable`."""
    tenant, begun = TenantId(settings.tenant), output.with_name(f"{output.name}.part")
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(
            nats_connection.connect(settings.broker(settings.nats_url), "operator")
        )
        store = await stack.enter_async_context(
            await run_store.open_run_store(settings.database_url, pool_max=1)
        )
        snapshot = await stack.enter_async_context(store.database.snapshot())
        log, files = JetStreamRunLog(connection, connection), JetStreamChunkStore(connection)
        export = UserExport(UserRows(snapshot, tenant, user), log, files, tenant)
        try:
            with (
                _open_private(begun) as handle,
                zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED) as archive,
            ):
                counts = await export.write(archive)
            begun.rename(output)
        except OSError as fault:
            raise Invalid(f"{output} cannot be written: {fault.strerror}") from fault
        finally:
            begun.unlink(missing_ok=True)
    return counts


def _open_private(path: Path) -> BinaryIO:
    """A new file that only its owner can read. What an earlier command left there is deleted."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def execute(settings: RunSettings, user: str, output: Path) -> None:
    """Write the file, which must not exist, and print what it holds. Raises `Invalid` if it exists."""
    if output.exists():
        raise Invalid(f"{output} exists already")
    counts = asyncio.run(export_user(settings, UserId(user), output))
    missing = f"; {counts.missing} files are not stored any more" if counts.missing else ""
    click.echo(
        f"{output}: {counts.rows} rows, {counts.records} records of logs, {counts.files} files{missing}"
    )
