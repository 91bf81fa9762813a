"""Files to attach, a web server that serves files, and a model that records what it receives."""

import asyncio
import io
import struct
import zlib
from collections.abc import AsyncGenerator
from typing import Any

from aiohttp import web
from PIL import Image

from rejoin_adapters.process import guarded_http
from rejoin_protocol import file_formats
from rejoin_protocol.events.chunks import TextDelta, TextEnd, TextStart
from rejoin_protocol.limits import FILE_BYTES_MAX
from rejoin_protocol.security.public_address import Address
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest

PDF = b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\nstartxref\n9\n%%EOF\n"


def image(format: str, size: tuple[int, int] = (64, 48), mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, 1 if mode == "1" else "teal").save(out, format)
    return out.getvalue()


PNG, JPEG, WEBP, GIF, BMP = (image(format) for format in ("PNG", "JPEG", "WEBP", "GIF", "BMP"))
GOOD = {"image/png": PNG, "image/jpeg": JPEG, "image/webp": WEBP, "application/pdf": PDF}


def png(head: bytes, pixels: bytes) -> bytes:
    """A PNG with this beginning, up to its pixels, which are packed already."""
    chunk = b"IDAT" + pixels
    return head + struct.pack(">I", len(pixels)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + PNG[-12:]


def truncated_png() -> bytes:
    """A PNG with a valid frame whose pixel data ends in the middle."""
    return png(PNG[:33], zlib.compress(bytes(64 * 3 * 10)))


def decompression_bomb(side: int = 30_000) -> bytes:
    """A small PNG that is large once it is unpacked; its pixels are complete."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    head = PNG[:8] + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    rows = bytes((1 + side // 8) * side)
    return png(head, zlib.compress(rows, 1))


BOMB = decompression_bomb()


def pdf_of_size(size: int) -> bytes:
    return PDF[:-6] + b"\n" * (size - len(PDF)) + PDF[-6:]


def inline_file_part(data: bytes, media_type: str, **more: str) -> dict[str, Any]:
    return {
        "type": "file",
        "mediaType": media_type,
        "url": file_formats.to_data_url(media_type, data),
        **more,
    }


def remote_file_part(url: str, media_type: str = "image/png") -> dict[str, Any]:
    return {"type": "file", "mediaType": media_type, "url": url}


class RecordingModel:
    """A model that answers "hello" and records its requests."""

    def __init__(self) -> None:
        self.requests: list[ModelRequest] = []

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        self.requests.append(request)
        for chunk in (TextStart(id="t"), TextDelta(id="t", delta="hello"), TextEnd(id="t")):
            yield chunk
        yield Done("stop")

    @property
    def seen(self) -> list[dict[str, Any]]:
        """The parts of the last user message of the last request."""
        parts: list[dict[str, Any]] = self.requests[-1].history[-1]["parts"]
        return parts


class FileSite:
    """A web server on loopback. The test's address guard allows this address and no other."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.port = 0
        self.over = asyncio.Event()

    def allowed(self, address: Address, port: int) -> bool:
        return port == self.port or guarded_http.is_fetchable(address, port)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(str(request.rel_url))
        match request.path.split("/")[1:]:
            case ["good", kind]:
                type = {"pdf": "application/pdf"}.get(kind, f"image/{kind}")
                return web.Response(body=GOOD[type], content_type=type)
            case ["phone"]:
                return web.Response(body=JPEG + b"ftypmp42", content_type="application/octet-stream")
            case ["gif"]:
                return web.Response(body=GIF, content_type="image/gif")
            case ["text"]:
                return web.Response(text="notes", content_type="text/plain")
            case ["html"]:
                return web.Response(text="<html>%PDF-", content_type="text/html")
            case ["posing"]:
                return web.Response(body=b"<html>", content_type="image/png")
            case ["mislabelled"]:
                return web.Response(body=PNG, content_type="text/plain")
            case ["hops", count]:
                there = f"/hops/{int(count) - 1}" if int(count) > 1 else "/good/png"
                return web.Response(status=302, headers={"Location": there})
            case ["to", *_]:
                return web.Response(status=302, headers={"Location": request.query["url"]})
            case ["large"]:
                return web.Response(body=pdf_of_size(FILE_BYTES_MAX + 1), content_type="application/pdf")
            case ["packed"]:
                headers = {"Content-Encoding": "gzip"}
                return web.Response(body=b"\x1f\x8b", content_type="image/png", headers=headers)
            case ["silent"]:
                await self.over.wait()
                raise web.HTTPNotFound
            case ["endless"]:
                return await self._endless(request)
            case _:
                raise web.HTTPNotFound

    async def _endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/png"})
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(1 << 20))
        except ConnectionError:
            return response
