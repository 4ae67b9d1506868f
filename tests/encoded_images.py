"""Encoded images of all formats and kinds, good and bad, for the tests of decoding and of the signatures."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

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


def encode_bmp(width, height, bits, rows, *, masks=(), palette=b"", colours=0, offset=0):
    """Create a BMP of raw lines, for kinds that Pillow does not write; masks make it one of bit fields."""
    table = struct.pack(f"<{len(masks)}I", *masks) + palette
    start = 54 + len(table) + offset
    header = struct.pack("<IHHI", start + len(rows), 0, 0, start)
    fields = (40, width, height, 1, bits, 3 if masks else 0, len(rows), 0, 0, colours, 0)
    return b"BM" + header + struct.pack("<IiiHHIIiiII", *fields) + table + bytes(offset) + rows


def encode_gif(canvas=None, corner=(0, 0), frame=None, **options):
    """Create a GIF whose frame lies at (left, top) on a canvas (width, height); `frame` is the size that it states."""
    content = bytearray(encode(_PALETTE, "GIF", **options))
    place = content.index(b",", 13 + 3 * 16)
    for position, sides in ((6, canvas), (place + 1, corner), (place + 5, frame)):
        if sides is not None:
            content[position : position + 4] = struct.pack("<HH", *sides)
    return bytes(content)


def damaged_jpeg(image=None, **options):
    """Create a JPEG with bytes overwritten inside, which decoders decode all the same, with a warning.

    Fewer bytes can be valid codes, which no decoder can tell from others.
    """
    content = bytearray(encode(mixed_images(1, 64, 64, 0)[0] if image is None else image, "JPEG", **options))
    middle = (content.rindex(b"\xff\xda") + len(content)) // 2  # of the last scan
    content[middle : middle + 60] = np.random.default_rng(1).integers(0, 255, 60, np.uint8).tobytes()
    return bytes(content)


def _claiming(side):
    """A JPEG whose header states another size."""
    content = encode(IMAGE, "JPEG")
    sides = content.index(struct.pack(">HH", 24, 36))
    return content[:sides] + struct.pack(">HH", side, side) + content[sides + 4 :]


def seen(content):
    """The pixels uint8 [h, w, 3] that Pillow shows."""
    return _rgb(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))


def turned(orientation, form="JPEG", order="<"):
    """Create an image whose EXIF block, in a byte order, states an orientation."""
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F], exif[0x0112], exif[0x0131] = "maker", orientation, "software"
    return encode(IMAGE, form, exif=exif.tobytes())


def _rgb(image):
    return np.array(image.convert("RGB"))


def _repeated(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


_ROWS = np.random.default_rng(1).integers(0, 256, (5, 28), dtype=np.uint8).tobytes()
_COLOURS = np.random.default_rng(2).integers(0, 256, (16, 4), dtype=np.uint8).tobytes()
_RGB_MASKS = (0xFF0000, 0xFF00, 0xFF)
# {kind: (bytes, the pixels uint8 [h, w, 3] that they stand for; None for those that Pillow shows)}
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
    "BMP, more bytes after its end": (encode(IMAGE, "BMP") + b"more", IMAGE),
    "BMP, 1 bit": (encode(_PALETTE.convert("1"), "BMP"), None),
    "BMP, 1 bit, from the top down": (encode_bmp(31, -5, 1, _ROWS[:20], palette=_COLOURS[:8]), None),
    "BMP, 4 bits": (encode_bmp(7, 5, 4, _ROWS[:20], palette=_COLOURS), None),
    "BMP, 4 bits, few colours": (encode_bmp(7, 5, 4, bytes(20), palette=_COLOURS[:12], colours=3, offset=5), None),
    "BMP, 16 bits": (encode_bmp(13, 5, 16, _ROWS), None),
    "BMP, 16 bits, six of green": (encode_bmp(13, 5, 16, _ROWS, masks=(0xF800, 0x7E0, 0x1F)), None),
    "BMP, 32 bits, with masks": (encode_bmp(7, 5, 32, _ROWS, masks=_RGB_MASKS), None),
    "BMP, 32 bits, red first": (
        encode_bmp(7, 5, 32, _ROWS, masks=_RGB_MASKS[::-1]),
        np.frombuffer(_ROWS, np.uint8).reshape(5, 7, 4)[::-1, :, :3],
    ),
    "GIF": (encode(_PALETTE, "GIF"), _rgb(_PALETTE)),
    "GIF, animated": (encode(_PALETTE, "GIF", **_ANIMATION), _rgb(_PALETTE)),
    "GIF, transparent": (encode_gif(transparency=2), None),
    "GIF, on a larger canvas": (encode_gif((50, 40), (5, 7)), None),
    "GIF, transparent, on a larger canvas": (encode_gif((50, 40), (5, 7), transparency=2), None),
    "GIF, larger than its canvas": (encode_gif((10, 10), (5, 7)), None),
    "GIF, commented": (encode_gif(comment=b"!," * 300), None),
    "GIF, interlaced": (encode_gif(interlace=1), None),
    "GIF, more bytes after its end": (encode_gif() + b"more", None),
    "PNG, transparent colour": (encode(_PALETTE, transparency=2), None),
    "PNG, turned": (turned(6, "PNG"), None),
    "JPEG": (encode(IMAGE, "JPEG"), None),
    "JPEG, no subsampling": (encode(IMAGE, "JPEG", subsampling=0), None),
    "JPEG, restart markers": (encode(IMAGE, "JPEG", restart_marker_blocks=2), None),
    **{f"JPEG, turned {i}{order}": (turned(i, order=order), None) for i in range(1, 9) for order in "<>"},
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
    "GIF, frame of 12000x12000": (
        encode_gif((10, 10), frame=(12000, 12000)),
        "is a GIF of 12000x12000 pixels, more than 134217728",
    ),
    "GIF, canvas of 65535x65535": (
        encode_gif((65535, 65535)),
        "is a GIF of 65535x65535 pixels, more than 134217728",
    ),
    "GIF, frame of 0x0": (encode_gif(frame=(0, 0)), _DAMAGED.format("GIF")),
    "JPEG, of 8000x8000 pixels, without them": (_claiming(8000), _DAMAGED.format("JPEG")),
    "BMP, 16 bits, rare masks": (encode_bmp(13, 5, 16, _ROWS, masks=(1, 2, 4)), _DAMAGED.format("BMP")),
    "BMP, first bytes only": (b"BM", _DAMAGED.format("BMP")),
    "BMP, cut short": (encode(IMAGE, "BMP")[:200], _DAMAGED.format("BMP")),
    "BMP, compressed": (encode(_GREY, "BMP")[:30] + b"\1" + encode(_GREY, "BMP")[31:], _DAMAGED.format("BMP")),
}
