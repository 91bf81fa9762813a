"""Decodes an image to find out whether it is complete, with a bound on its pixels.

The only user of Pillow, and only of its PNG, JPEG, WebP and GIF decoders. Runs in threads.
"""

import io

from PIL import GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from rejoin_protocol import file_formats
from rejoin_protocol.errors import Invalid

PIXELS_MAX = 50_000_000
"""Of all frames of an image together; a phone's largest picture. Four bytes of memory each while decoding."""
FORMATS = {
    file_formats.PNG: PngImagePlugin.PngImageFile.format,
    file_formats.JPEG: JpegImagePlugin.JpegImageFile.format,
    file_formats.WEBP: WebPImagePlugin.WebPImageFile.format,
    file_formats.GIF: GifImagePlugin.GifImageFile.format,
}
ONE_FRAME = frozenset({file_formats.JPEG, file_formats.GIF})
"""Of these only the first frame is decoded, as models do: to count a GIF's frames is to decode them all."""


def decode(data: bytes, media_type: str) -> None:
    """Decode the frames and drop them. Raises `Invalid` for a damaged image or one with too many pixels."""
    try:
        with Image.open(io.BytesIO(data), formats=[FORMATS[media_type]]) as image:
            width, height = image.size
            frames = 1 if media_type in ONE_FRAME else getattr(image, "n_frames", 1)
            if width * height * frames > PIXELS_MAX:
                raise Invalid(f"an image has at most {PIXELS_MAX} pixels, not {width}x{height}x{frames}")
            for number in range(frames):
                image.seek(number)
                image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Invalid(f"an image has at most {PIXELS_MAX} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, ArithmeticError, LookupError, TypeError) as fault:
        raise Invalid("the image cannot be decoded: it is truncated or damaged") from fault
