"""Reads the HTTP/1.1 response that aiohttp writes, as the head and the body of an ASGI response. Pure."""

from collections.abc import Iterator
from typing import Any

HEAD_END = b"\r\n\r\n"
LINE_END = b"\r\n"
DROPPED_RESPONSE_HEADERS = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"date", b"server"})
"""Headers that the ASGI server writes itself."""
WITHOUT_BODY = frozenset({204, 304})


class ResponseParser:
    """`feed` returns what is complete. `complete`: whether the whole response has been read."""

    def __init__(self, method: str) -> None:
        self.complete = False
        self._method = method
        self._rest = bytearray()
        self._has_head = False
        self._is_chunked = False
        self._body_bytes: int | None = None
        """Bytes of the body, or of the current chunk, that have not been read yet. None: a size follows."""

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """The ASGI messages of the response that are complete with `data`."""
        if self.complete:
            return
        self._rest += data
        if not self._has_head:
            end = self._rest.find(HEAD_END)
            if end < 0:
                return
            head = bytes(self._rest[:end])
            del self._rest[: end + len(HEAD_END)]
            yield self._parse_head(head)
        body = self._take_chunks() if self._is_chunked else self._take_body()
        if body or self.complete:
            yield {"type": "http.response.body", "body": body, "more_body": not self.complete}

    def _parse_head(self, head: bytes) -> dict[str, Any]:
        status_line, *lines = head.split(LINE_END)
        status = int(status_line.split(b" ", 2)[1])
        pairs = [line.split(b":", 1) for line in lines]
        headers = [(name.strip().lower(), value.strip()) for name, value in pairs]
        by_name = dict(headers)
        self._has_head = True
        self._is_chunked = by_name.get(b"transfer-encoding", b"").lower() == b"chunked"
        if self._method == "HEAD" or status in WITHOUT_BODY:
            self._is_chunked, self._body_bytes = False, 0
        elif not self._is_chunked:
            self._body_bytes = int(by_name.get(b"content-length", b"0"))
        sent = [(name, value) for name, value in headers if name not in DROPPED_RESPONSE_HEADERS]
        return {"type": "http.response.start", "status": status, "headers": sent}

    def _take_body(self) -> bytes:
        body = self._take(self._body_bytes or 0)
        self._body_bytes = (self._body_bytes or 0) - len(body)
        self.complete = self._body_bytes == 0
        return body

    def _take_chunks(self) -> bytes:
        pieces = []
        while not self.complete:
            if self._body_bytes is None:
                end = self._rest.find(LINE_END)
                if end < 0:
                    break
                size = int(self._rest[:end], 16)
                del self._rest[: end + len(LINE_END)]
                self._body_bytes = size + len(LINE_END)
                if size == 0:
                    self.complete = True
                continue
            wanted = self._body_bytes
            piece = self._take(wanted)
            self._body_bytes -= len(piece)
            # The line end behind a chunk is not a part of it, and may come in two pieces.
            ending = len(LINE_END) - self._body_bytes
            pieces.append(piece[: max(0, wanted - len(LINE_END))] if ending > 0 else piece)
            if self._body_bytes > 0:
                break
            self._body_bytes = None
        return b"".join(pieces)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._rest[:count])
        del self._rest[:count]
        return taken
