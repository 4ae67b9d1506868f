"""Encoded images of all formats and kinds, good and bad, for the tests of decoding and of the signatures."""

import struct
import zlib

import numpy as np
from PIL import Image

from tests.helpers import encode, mixed_images

IMAGE = mixed_images(1, 24, 36, 5)[0]
_GREY = IMAGE.mean(axis=-1).astype(np.uint8)
_ALPHA = np.concatenate([IMAGE, np.full((24, 36, 1), 7, np.uint8)], axis=-1)
_PALETTE = Image.fromarray(IMAGE).quantize(16)
_DEEP = (_GREY.astype(np.uint16) << 8 | 0x9A).astype(">u2")  # of 16 bits per sample, the upper eight count
_ANIMATION = {"save_all": True, "append_images": [Image.fromarray(IMAGE[::-1].copy())]}


def encode_png(width, height, depth, colour_type, rows):
    """Create a PNG of raw scan lines, for kinds that Pillow does not write."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


def _rgb(image):
    return np.array(image.convert("RGB"))


def _repeated(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


# {kind: (bytes, the pixels uint8 [h, w, 3] that they stand for; None for JPEG, which decoders may round differently)}
GOOD = {
    "PNG": (encode(IMAGE), IMAGE),
    "PNG, grey": (encode(_GREY), _repeated(_GREY)),
    "PNG, alpha": (encode(_ALPHA), IMAGE),
    "PNG, grey with alpha": (encode(_GREY, mode="LA"), _repeated(_GREY)),
    "PNG, 16 bits": (
        encode_png(36, 24, 16, 0, b"".join(b"\0" + row.tobytes() for row in _DEEP)),
        _repeated(_GREY),
    ),
    "PNG, palette": (encode(_PALETTE), _rgb(_PALETTE)),
    "PNG, two colours": (encode(_GREY > 99), _repeated(np.where(_GREY > 99, 255, 0).astype(np.uint8))),
    "PNG, 1x1": (encode(IMAGE[:1, :1]), IMAGE[:1, :1]),
    "PNG, more bytes after its end": (encode(IMAGE) + b"more", IMAGE),
    "PNG, animated": (encode(IMAGE, **_ANIMATION), IMAGE),
    "BMP": (encode(IMAGE, "BMP"), IMAGE),
    "BMP, grey": (encode(_GREY, "BMP"), _repeated(_GREY)),
    "BMP, alpha": (encode(_ALPHA, "BMP"), IMAGE),
    "BMP, palette": (encode(_PALETTE, "BMP"), _rgb(_PALETTE)),
    "GIF": (encode(_PALETTE, "GIF"), _rgb(_PALETTE)),
    "GIF, animated": (encode(_PALETTE, "GIF", **_ANIMATION), _rgb(_PALETTE)),
    "JPEG": (encode(IMAGE, "JPEG"), None),
    "JPEG, grey": (encode(_GREY, "JPEG"), None),
    "JPEG, progressive": (encode(IMAGE, "JPEG", progressive=True), None),
    "JPEG, CMYK": (encode(IMAGE, "JPEG", mode="CMYK"), None),
}
_NO_FORMAT = "is not an image of a known format (JPEG, PNG, GIF, BMP)"
_DAMAGED = "is a {} that cannot be decoded: damaged, cut short or of a rare kind"
# {kind: (bytes, the reason why they cannot be decoded)}
BAD = {
    "empty": (b"", "is empty"),
    "text": (b"not an image", _NO_FORMAT),
    "one byte": (b"\xff", _NO_FORMAT),
    "WebP": (encode(IMAGE, "WEBP"), _NO_FORMAT),
    "TIFF": (encode(IMAGE, "TIFF"), _NO_FORMAT),
    "base64": (b"iVBORw0KGgo=", _NO_FORMAT),
    "PNG, first bytes only": (encode(IMAGE)[:8], _DAMAGED.format("PNG")),
    "PNG, header only": (encode(IMAGE)[:33], _DAMAGED.format("PNG")),
    "PNG, cut short": (encode(IMAGE)[:-200], _DAMAGED.format("PNG")),
    "PNG, a wrong byte": (encode(IMAGE)[:100] + b"!" + encode(IMAGE)[101:], _DAMAGED.format("PNG")),
    "PNG, 0x0": (encode_png(0, 0, 8, 2, b""), _DAMAGED.format("PNG")),
    "PNG, 20000x20000": (
        encode_png(20000, 20000, 8, 2, b""),
        "is a PNG of 20000x20000 pixels, more than 134217728",
    ),
    "JPEG, cut short": (encode(IMAGE, "JPEG")[:-100], _DAMAGED.format("JPEG")),
    "JPEG, first bytes only": (b"\xff\xd8\xff", _DAMAGED.format("JPEG")),
    "GIF, first bytes only": (b"GIF89a", _DAMAGED.format("GIF")),
    "GIF, cut short": (encode(_PALETTE, "GIF")[:60], _DAMAGED.format("GIF")),
    "BMP, first bytes only": (b"BM", _DAMAGED.format("BMP")),
    "BMP, cut short": (encode(IMAGE, "BMP")[:200], _DAMAGED.format("BMP")),
    "BMP, compressed": (encode(_GREY, "BMP")[:30] + b"\1" + encode(_GREY, "BMP")[31:], _DAMAGED.format("BMP")),
}
