"""Decodes images in the graph, for training, for a server, for files and for Beam.

- JPEG (grey, colour, CMYK), PNG (grey, palette, colour), BMP (8 bits with a palette, 24 and 32 bits) and GIF;
- grey is repeated to three channels; alpha is dropped, not blended;
- of 16 bits per sample, the upper eight count; of an animation, the first image;
- neither EXIF orientation nor a colour profile is applied.

`views.prepare` then resizes the images.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mcl_tf import views

MAX_PIXELS = 2**27  # 402 MB decoded; a few kilobytes of PNG can claim a hundred times as much
PARALLEL = 4  # images decoded at a time; limits the memory of a server
FORMATS = (("JPEG", b"\xff\xd8\xff"), ("PNG", b"\x89PNG\r\n\x1a\n"), ("GIF", b"GIF8"), ("BMP", b"BM"))
_JPEG, _BMP, _NO_FORMAT = 0, 3, len(FORMATS)
_HEADER = 64  # bytes; every format except JPEG states its size within them
_BITFIELDS = 3  # BMP compression: 32 bits per pixel with masks


def decode(contents, size: int):
    """Decode and resize images, each of its own size; a bad image does not stop the others.

    Args:
      contents: string [n], the bytes of encoded images; n may be 0.
      size: side of the results in pixels.

    Returns:
      images: uint8 [n, size, size, 3], black where decoding failed.
      reasons: string [n], why decoding failed, as the end of a sentence; empty where it succeeded.
    """
    headers = _headers(contents)
    kinds, sides = _kinds(headers), _sides(headers)
    parts = (contents, kinds, sides)

    def decode_all():
        return _map(lambda part: _decode_and_resize(part[0], part[1], part[2], size), parts, size)

    def decode_each():
        return _map(
            lambda part: _attempt(lambda: _decode_and_resize(part[0], part[1], part[2], size), _nothing(size)),
            parts,
            size,
        )

    # Catching errors per image costs 0.5 ms each, so it is done only if the whole batch fails.
    count = tf.shape(contents)[0]
    nothing = (tf.zeros([0, size, size, 3], tf.uint8), tf.zeros([0, 2], tf.int64))
    images, sides = _attempt(decode_all, nothing)
    images, sides = tf.cond(tf.shape(sides)[0] == count, lambda: (images, sides), decode_each)
    images = tf.ensure_shape(images, [None, size, size, 3])
    return images, _reasons(contents, kinds, tf.ensure_shape(sides, [None, 2]))


def decode_or_fail(contents, size: int):
    """Decode and resize images like `decode`, and raise an error that names every bad image with its reason.

    Args:
      contents: string [n], the bytes of encoded images.
      size: side of the results in pixels.

    Returns:
      uint8 [n, size, size, 3].
    """
    images, reasons = decode(contents, size)
    bad = tf.where(reasons != "")[:, 0]
    parts = ["image_bytes[", tf.strings.as_string(bad), "] ", tf.gather(reasons, bad)]
    message = tf.strings.reduce_join(tf.strings.join(parts), separator="; ")
    with tf.control_dependencies([tf.debugging.Assert(tf.size(bad) == 0, [message])]):
        return tf.identity(images)


def _map(function, elements, size):
    signature = (tf.TensorSpec([size, size, 3], tf.uint8), tf.TensorSpec([2], tf.int64))
    return tf.map_fn(function, elements, fn_output_signature=signature, parallel_iterations=PARALLEL)


def _nothing(size):
    return tf.zeros([size, size, 3], tf.uint8), tf.constant([-1, -1], tf.int64)


def _attempt(make, otherwise):
    """Return the result of `make`, or `otherwise` if an operation in it fails; only a dataset can catch errors."""
    tried = tf.data.Dataset.from_tensors(0).map(lambda _: make()).ignore_errors()
    return tried.concatenate(tf.data.Dataset.from_tensors(otherwise)).take(1).get_single_element()


def _headers(contents):
    """Return the first bytes of every image, padded with zeros: int64 [n, _HEADER]."""
    return tf.cast(tf.io.decode_raw(contents, tf.uint8, fixed_length=_HEADER), tf.int64)


def _kinds(headers):
    """Return the index of every image's format in FORMATS, recognized by its first bytes: int32 [n]."""
    longest = max(len(magic) for _, magic in FORMATS)
    wanted = np.array([[*magic, *[-1] * (longest - len(magic))] for _, magic in FORMATS])
    matches = tf.reduce_all((headers[:, None, :longest] == wanted) | (wanted < 0), axis=2)
    matches = tf.pad(tf.cast(matches, tf.int32), [[0, 0], [0, 1]], constant_values=1)  # the last index: no format
    return tf.argmax(matches, axis=1, output_type=tf.int32)


def _sides(headers):
    """Return height and width for every possible format: int64 [n, 5, 2], 0 for JPEG and for no format."""
    png, gif, bmp = ((20, -4), (16, -4)), ((8, 2), (6, 2)), ((22, 4), (18, 4))
    sides = tf.reshape(_numbers(headers, *png, *gif, *bmp), [-1, 3, 2])
    sides = tf.pad(sides, [[0, 0], [1, 1], [0, 0]])
    # A BMP that is stored from the top down has a negative height.
    signed = np.arange(len(FORMATS) + 1)[:, None] == _BMP
    return tf.where(signed & (sides >= 2**31), 2**32 - sides, sides)


def _numbers(headers, *fields):
    """Read unsigned numbers from every header.

    Args:
      headers: int64 [n, _HEADER].
      *fields: (position, width in bytes) of every number; a negative width means that the high byte comes first.

    Returns:
      int64 [n, fields].
    """
    # One product, because building a graph of slices and sums takes longer than reading a hundred images.
    weights = np.zeros((_HEADER, len(fields)), np.int64)
    for column, (position, width) in enumerate(fields):
        powers = 256 ** np.arange(abs(width))
        weights[position : position + len(powers), column] = powers if width > 0 else powers[::-1]
    return tf.matmul(headers, weights)


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def decode_at_own_size(contents):
    """Decode one image, string [] -> uint8 [h, w, 3]; an operation in it fails if that is not possible."""
    headers = _headers(contents[None])
    kind = _kinds(headers)[0]
    sides = _own_sides(contents, kind, _sides(headers)[0])
    with tf.control_dependencies([tf.debugging.Assert(_is_wanted(kind, sides), ["not an image"])]):
        return _pixels(tf.identity(contents), kind)


def _decode_and_resize(contents, kind, sides, size):
    """Return an image uint8 [size, size, 3] and its own sides int64 [2]; black for too many pixels or no format."""
    sides = _own_sides(contents, kind, sides)
    image = lambda: views.prepare(_pixels(contents, kind)[None], size)[0]  # noqa: E731
    return tf.cond(_is_wanted(kind, sides), image, lambda: _nothing(size)[0]), sides


def _own_sides(contents, kind, sides):
    """Return the sides int64 [2] of an image from those by format [5, 2]; a JPEG is searched for them."""
    return tf.cond(
        kind == _JPEG, lambda: tf.cast(tf.io.extract_jpeg_shape(contents)[:2], tf.int64), lambda: sides[kind]
    )


def _is_wanted(kind, sides):
    return (kind < _NO_FORMAT) & (tf.reduce_prod(sides) <= MAX_PIXELS)


def _pixels(contents, kind):
    """Decode an image of a known format to uint8 [h, w, 3]."""
    usual = lambda: tf.io.decode_image(contents, channels=3, expand_animations=False)  # noqa: E731
    pixels = tf.cond(kind == _BMP, lambda: _decode_bmp(contents), usual)
    return tf.ensure_shape(pixels, [None, None, 3])


# A call of its own: inlined, its many unused operations would take a third of the time of a small PNG.
@tf.function(
    input_signature=[tf.TensorSpec([], tf.string)], autograph=False, experimental_attributes={"_noinline": True}
)
def _decode_bmp(contents):
    """Decode a BMP to uint8 [h, w, 3]; TensorFlow's decoder knows neither palettes nor compression."""
    fields = ((10, 4), (14, 4), (30, 4), (46, 4), (28, 2))
    numbers = _numbers(_headers(contents[None]), *fields)[0]
    offset, header, compression, colours, bits = tf.unstack(numbers)
    plain = (compression == 0) | ((compression == _BITFIELDS) & (bits == 32))
    known = tf.debugging.Assert(plain & (header >= 40), ["a compressed or very old BMP"])
    with tf.control_dependencies([known]):
        pixels = tf.io.decode_bmp(contents)

    def by_palette():
        count = tf.where(colours == 0, tf.constant(256, tf.int64), colours)
        fits = tf.debugging.Assert((count <= 256) & (14 + header + 4 * count <= offset), ["a BMP's palette"])
        with tf.control_dependencies([fits]):
            table = tf.strings.substr(contents, 14 + header, 4 * count)
        palette = tf.reshape(tf.io.decode_raw(table, tf.uint8), [-1, 4])[:, 2::-1]  # blue, green, red, unused
        return tf.gather(palette, tf.cast(pixels[..., 0], tf.int32))

    return tf.cond(bits == 8, by_palette, lambda: pixels[..., :3])


def _reasons(contents, kinds, sides):
    """Return why decoding failed, string [n]; empty where it succeeded."""
    names = tf.gather(tf.constant([*(name for name, _ in FORMATS), ""]), kinds)
    height, width = (tf.strings.as_string(side) for side in tf.unstack(sides, axis=1))
    large = tf.strings.join(["is a ", names, " of ", width, "x", height, f" pixels, more than {MAX_PIXELS}"])
    damaged = tf.strings.join(["is a ", names, " that cannot be decoded: damaged, cut short or of a rare kind"])
    reasons = tf.where(sides[:, 0] * sides[:, 1] > MAX_PIXELS, large, "")
    reasons = tf.where(sides[:, 0] < 0, damaged, reasons)
    possible = ", ".join(name for name, _ in FORMATS)
    reasons = tf.where(kinds == _NO_FORMAT, f"is not an image of a known format ({possible})", reasons)
    return tf.where(tf.strings.length(contents) == 0, "is empty", reasons)
