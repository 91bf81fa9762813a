"""Which parts of a turn are files, and turns with their files replaced or left out. Pure."""

from collections.abc import Sequence

from rejoin_gateway.core.attachments import Part
from rejoin_gateway.core.message_input import ImportedTurn
from rejoin_protocol.events.fold import MessageDict


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
