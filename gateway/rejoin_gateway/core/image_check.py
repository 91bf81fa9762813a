"""The pixels of an image: whether all of them are there, and whether there are too many.

The only user of Pillow, which it loads for those three formats alone. It runs in threads.
"""

import io

from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from rejoin_protocol import file_formats
from rejoin_protocol.errors import Invalid

PIXELS_MAX = 50_000_000
"""Of all frames of an image: a phone's largest. Four bytes each while it is looked at."""
FORMATS = {
    file_formats.PNG: PngImagePlugin.PngImageFile.format,
    file_formats.JPEG: JpegImagePlugin.JpegImageFile.format,
    file_formats.WEBP: WebPImagePlugin.WebPImageFile.format,
}


def decode(data: bytes, media_type: str) -> None:
    """Decode an image to its last pixel and forget it. Raises `Invalid` for one that is broken or a bomb."""
    try:
        with Image.open(io.BytesIO(data), formats=[FORMATS[media_type]]) as image:
            width, height = image.size
            frames = 1 if media_type == file_formats.JPEG else getattr(image, "n_frames", 1)
            if width * height * frames > PIXELS_MAX:
                raise Invalid(f"an image has at most {PIXELS_MAX} pixels, not {width}x{height}x{frames}")
            for number in range(frames):
                image.seek(number)
                image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Invalid(f"an image has at most {PIXELS_MAX} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, ArithmeticError, LookupError, TypeError) as fault:
        raise Invalid("the image cannot be decoded: it is truncated or damaged") from fault
