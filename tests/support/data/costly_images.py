"""Images that are small on the wire and large for whoever decodes them."""

import io
import random
import struct
import zlib

from PIL import Image


def encoded(width: int, height: int, kind: str, mode: str = "RGB", **options: object) -> bytes:
    target = io.BytesIO()
    noise = Image.frombytes("L", (64, 64), random.Random(1).randbytes(64 * 64))
    noise.resize((width, height)).convert(mode).save(target, kind, **options)
    return target.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is so large; its pixels are zeros, as many as it has room for."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def webp_of(width: int, height: int) -> bytes:
    """A lossless WebP of some bytes that says it is so large."""
    small = encoded(1, 1, "webp", lossless=True)
    bits = (width - 1) | (height - 1) << 14
    return small[:21] + struct.pack("<I", bits | (small[24] & 0xF0) << 24) + small[25:]


def jpeg_with_scans(scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    whole = encoded(2_000, 2_000, "jpeg", progressive=True)
    at = whole.rindex(b"\xff\xda")
    scan = whole[at:-2]
    return whole[:-2] + scan * scans + b"\xff\xd9"
