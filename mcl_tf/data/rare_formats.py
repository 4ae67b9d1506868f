"""Decodes the formats that TensorFlow cannot decode, WebP and TIFF, by Pillow.

They are decoded outside of the graph, so that training and the scoring of files read them and a server does not. What
`mcl_tf.data.decoding` says about channels, bits, animations and orientation holds for them, too.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

from mcl_tf.data import jpeg_warnings
from mcl_tf.data.encoded_bytes import MAX_PIXELS, UNDECODABLE

NAMES = ("WebP", "TIFF")


def name_of(contents: bytes) -> str:
    """Return the name of the format, recognized by the first bytes; "" if it is none of these."""
    if contents[:4] == b"RIFF" and contents[8:12] == b"WEBP":
        return "WebP"
    return "TIFF" if contents[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") else ""


def decode(contents: bytes) -> np.ndarray:
    """Decode an image.

    Args:
      contents: its bytes, for which `name_of` is not "".

    Returns:
      uint8 [h, w, 3].

    Raises:
      ValueError: it cannot be decoded; the message is the end of a sentence.
    """
    name = name_of(contents)
    too_large = f"is a {name} of more than {MAX_PIXELS} pixels"
    try:
        with Image.open(io.BytesIO(contents), formats=[known.upper() for known in NAMES]) as image:
            width, height = image.size
            has_32_bits = image.mode in ("I", "F")
            if width * height <= MAX_PIXELS and not has_32_bits:
                return _to_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:
        raise ValueError(too_large) from None
    except Exception:  # noqa: BLE001 - Pillow fails on damaged files in as many ways as it has parsers
        raise ValueError(f"is a {name} {UNDECODABLE}") from None
    if width * height > MAX_PIXELS:
        raise ValueError(too_large)
    raise ValueError(f"is a {name} of {width}x{height} pixels with 32 bits per sample, of which 8 and 16 can be read")


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):
        pixels = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(pixels[..., None], 3, axis=-1)
    return np.asarray(image.convert("RGB"))


def for_graph(contents: bytes) -> tuple[bytes, str]:
    """Return an image in a format that the graph decodes, and "" or the reason why that is not possible."""
    try:
        return (_as_png(contents), "") if name_of(contents) else (contents, "")
    except ValueError as error:
        return b"", str(error)


def _as_png(contents: bytes) -> bytes:
    file = io.BytesIO()
    with jpeg_warnings.heard(quiet=True):  # libtiff writes to standard error
        Image.fromarray(decode(contents)).save(file, "PNG", compress_level=0)
    return file.getvalue()
