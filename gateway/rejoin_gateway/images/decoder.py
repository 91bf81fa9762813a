"""Runs in a process of its own: decodes images from its standard input, one after the other.

The only user of Pillow, and only of its PNG, JPEG, WebP and GIF decoders. Before the first image the process
limits its own memory; before each one, its CPU time. A limit that is exceeded ends it, and nobody else.

A request is the media type, a line feed, the length, a line feed, the bytes. The reply is one line: empty for
a good image, else what is wrong with it.
"""

import io
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from PIL import GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

FORMATS = {
    "image/png": PngImagePlugin.PngImageFile.format,
    "image/jpeg": JpegImagePlugin.JpegImageFile.format,
    "image/webp": WebPImagePlugin.WebPImageFile.format,
    "image/gif": GifImagePlugin.GifImageFile.format,
}
ONE_FRAME = frozenset({"image/jpeg", "image/gif"})
DAMAGED = "the image cannot be decoded: it is truncated or damaged"
TOO_LARGE = "the image takes too much memory to decode"


def decode(data: bytes, media_type: str) -> str:
    """Decode the frames and drop them. Returns what is wrong with the image; empty: nothing."""
    try:
        with Image.open(io.BytesIO(data), formats=[FORMATS[media_type]]) as image:
            if media_type == "image/jpeg":  # read all of the data, build an eighth of the picture
                image.draft("RGB", (image.width // 8, image.height // 8))
            for number in range(1 if media_type in ONE_FRAME else getattr(image, "n_frames", 1)):
                image.seek(number)
                image.load()
    except (MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return TOO_LARGE
    except (OSError, SyntaxError, ValueError, EOFError, ArithmeticError, LookupError, TypeError):
        return DAMAGED
    return ""


def serve(requests: BinaryIO, replies: BinaryIO, memory_bytes_max: int, cpu_s_max: int) -> None:
    """Answer requests until the input ends."""
    Image.MAX_IMAGE_PIXELS = None  # the caller has compared the image with its own limit
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # if memory is short, the kernel ends this process and not the gateway
        Path("/proc/self/oom_score_adj").write_text("1000")
    with suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes_max, memory_bytes_max))
    while media_type := requests.readline().strip().decode():
        data = requests.read(int(requests.readline()))
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = int(used.ru_utime + used.ru_stime) + 1 + cpu_s_max
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, resource.RLIM_INFINITY))
        replies.write(decode(data, media_type).encode() + b"\n")
        replies.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer, int(sys.argv[1]), int(sys.argv[2]))
