"""The memory that decoding an image takes, computed from its headers. Pure.

A 40-byte file can declare 268 megapixels. The formats differ in what a decoder holds: a PNG its pixels, a
WebP four canvases, a progressive JPEG all coefficients of the picture. The bytes for each pixel are measured
with the decoders of Pillow 13; `tests/security/test_images.py` compares.
"""

import re

import msgspec

from rejoin_protocol import file_formats
from rejoin_protocol.errors import Invalid
from rejoin_protocol.limits import IMAGE_MEMORY_BYTES_MAX, IMAGE_SCANS_MAX

FRAMES_PIXELS_MAX = 50_000_000
"""Pixels of all frames of an animation together. One frame is in memory at a time."""
_START_OF_FRAME = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_MARKER = re.compile(rb"\xff+[^\xff]", re.DOTALL)
_START_OF_SCAN = b"\xff\xda"


class ImageCost(msgspec.Struct, frozen=True):
    """`bytes_per_pixel`: in memory while one frame is decoded. `scans`: passes over a progressive picture."""

    width: int
    height: int
    bytes_per_pixel: int
    frames: int = 1
    scans: int = 1

    @property
    def memory_bytes(self) -> int:
        """The bytes of memory that decoding takes."""
        return self.width * self.height * self.bytes_per_pixel


def check_cost(data: bytes, media_type: str) -> ImageCost:
    """The cost of an image. Raises `Invalid` if its headers are damaged, or it takes too much to decode."""
    cost = measure(data, media_type)
    if cost is None or not cost.width or not cost.height:
        raise Invalid("the image cannot be decoded: its header is damaged")
    size = f"{cost.width}x{cost.height}"
    if cost.memory_bytes > IMAGE_MEMORY_BYTES_MAX:
        pixels = IMAGE_MEMORY_BYTES_MAX // cost.bytes_per_pixel
        raise Invalid(f"an image of this kind has at most {pixels} pixels, not {size}")
    if cost.width * cost.height * cost.frames > FRAMES_PIXELS_MAX and cost.frames > 1:
        raise Invalid(
            f"the frames of an image have at most {FRAMES_PIXELS_MAX} pixels, not {size}x{cost.frames}"
        )
    if cost.scans > IMAGE_SCANS_MAX:
        raise Invalid(f"an image has at most {IMAGE_SCANS_MAX} scans, not {cost.scans}")
    return cost


def measure(data: bytes, media_type: str) -> ImageCost | None:
    """The cost of an image of one of four formats; None if its headers cannot be read."""
    match media_type:
        case file_formats.PNG:
            return _measure_png(data)
        case file_formats.JPEG:
            return _measure_jpeg(data)
        case file_formats.WEBP:
            return _measure_webp(data)
        case _:
            return _measure_gif(data)


def _measure_png(data: bytes) -> ImageCost | None:
    if data[12:16] != b"IHDR" or len(data) < 33:  # noqa: PLR2004 - signature and first chunk
        return None
    width, height, depth = int.from_bytes(data[16:20]), int.from_bytes(data[20:24]), data[24]
    frames, at = 1, 33
    for _ in range(file_formats.IMAGE_BLOCKS_MAX):
        name = data[at + 4 : at + 8]
        if name in (b"", b"IDAT"):
            break
        if name == b"acTL":
            frames = max(int.from_bytes(data[at + 8 : at + 12]), 1)
        at += 12 + int.from_bytes(data[at : at + 4])
    bytes_per_pixel = (8 if depth > 8 else 4) * (3 if frames > 1 else 1)  # noqa: PLR2004 - bits
    return ImageCost(width, height, bytes_per_pixel, frames)


def _measure_jpeg(data: bytes) -> ImageCost | None:
    at = 2
    for _ in range(file_formats.IMAGE_BLOCKS_MAX):
        found = _MARKER.match(data, at)
        if found is None or found.end() + 2 > len(data):
            return None
        at, marker = found.end() - 2, data[found.end() - 1]
        if marker in _START_OF_FRAME:
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            samples = max(int.from_bytes(data[at + 9 : at + 10]), 1)
            if marker not in _PROGRESSIVE:
                return ImageCost(width, height, 1)
            return ImageCost(width, height, 2 * samples, scans=data.count(_START_OF_SCAN))
        at += 2 + max(int.from_bytes(data[at + 2 : at + 4]), 2)
    return None


def _measure_webp(data: bytes) -> ImageCost | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        frames = data.count(b"ANMF") if data[20] & 2 else 1
        return ImageCost(width, height, 16, max(frames, 1))
    if kind == b"VP8L" and data[20:21] == b"\x2f":
        bits = int.from_bytes(data[21:25], "little")
        return ImageCost((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 16)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
        return ImageCost(width, height, 16)
    return None


def _measure_gif(data: bytes) -> ImageCost | None:
    """Only the first frame is decoded, as models do: to count a GIF's frames is to decode them all."""
    width, height = (int.from_bytes(data[at : at + 2], "little") for at in (6, 8))
    return ImageCost(width, height, 8)
