"""Decodes images in the graph, for training, for a server, for files and for Beam.

Training, files and Beam also read WebP and TIFF, see `mcl_tf.data.rare_formats`; a server does not.

- JPEG (grey, colour, CMYK), PNG (grey, palette, colour), BMP (palettes, 16 to 32 bits, uncompressed) and GIF;
- grey is repeated to three channels; alpha is dropped in every format, so that a transparent pixel has the colour that
  is stored for it;
- of 16 bits per sample, the upper eight count; of an animation, the first image, on its canvas;
- the orientation that EXIF states is applied, a colour profile is not.

The pixels are those of Pillow, to the bit. `views.prepare` then resizes the images.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

from mcl_tf import views
from mcl_tf.config import DataConfig
from mcl_tf.data import bmp, gif, orientation, rare_formats
from mcl_tf.data.encoded_bytes import MAX_PIXELS, UNDECODABLE, demand, numbers

PARALLEL = 4  # images decoded at a time; limits the memory of a server
FORMATS = (("JPEG", b"\xff\xd8\xff"), ("PNG", b"\x89PNG\r\n\x1a\n"), ("GIF", b"GIF8"), ("BMP", b"BM"))
_JPEG, _PNG, _GIF, _BMP, _NO_FORMAT = range(len(FORMATS) + 1)
UNKNOWN = f"is not an image of a known format ({', '.join(name for name, _ in FORMATS)})"
_HEADER = 64  # bytes; PNG and BMP state their size within them
_JPEG_PIXELS = 512  # per byte, at most: a block of 64 pixels takes at least one bit
_PNG_SIDES, _BMP_SIDES = ((20, -4), (16, -4)), ((22, 4), (18, 4))  # height and width in the header


def decode(contents, size: int, resize: str = DataConfig.resize):
    """Decode and resize images, each of its own size; a bad image does not stop the others.

    Args:
      contents: string [n], the bytes of encoded images; n may be 0.
      size: side of the results in pixels.
      resize: what becomes of images that are not square, see `views.prepare`.

    Returns:
      images: uint8 [n, size, size, 3], black where decoding failed.
      reasons: string [n], why decoding failed, as the end of a sentence; empty where it succeeded.
    """
    kinds, sides, turned = _read_headers(contents)
    parts = (contents, kinds, sides, _orientations(contents, kinds, turned))

    def decode_all():
        return _map(lambda part: _decode_and_resize(part, size, resize), parts, size)

    def decode_each():
        def attempt(part):
            return _attempt(lambda: _decode_and_resize(part, size, resize), _nothing(size))

        return _map(attempt, parts, size)

    # Catching errors per image costs 0.5 ms each, so it is done only if the whole batch fails.
    count = tf.shape(contents)[0]
    nothing = (tf.zeros([0, size, size, 3], tf.uint8), tf.zeros([0, 2], tf.int64))
    images, sides = _attempt(decode_all, nothing)
    images, sides = tf.cond(tf.shape(sides)[0] == count, lambda: (images, sides), decode_each)
    images = tf.ensure_shape(images, [None, size, size, 3])
    return images, _reasons(contents, kinds, tf.ensure_shape(sides, [None, 2]))


def decode_or_fail(contents, size: int, resize: str = DataConfig.resize):
    """Decode and resize images like `decode`, and raise an error that names every bad image with its reason.

    Args:
      contents: string [n], the bytes of encoded images.
      size: side of the results in pixels.
      resize: see `decode`.

    Returns:
      uint8 [n, size, size, 3].
    """
    images, reasons = decode(contents, size, resize)
    bad = tf.where(reasons != "")[:, 0]
    parts = ["image_bytes[", tf.strings.as_string(bad), "] ", tf.gather(reasons, bad)]
    message = tf.strings.reduce_join(tf.strings.join(parts), separator="; ")
    with tf.control_dependencies([tf.debugging.Assert(tf.size(bad) == 0, [message])]):
        return tf.identity(images)


def decode_usual(contents, size: int, resize: str = DataConfig.resize):
    """Decode and resize JPEG and PNG that are upright, and leave all else to `decode_in_python`.

    It is traced in a fraction of the time that `decode` takes, and fails as a whole if one of the images is damaged.

    Args:
      contents: string [n], the bytes of encoded images.
      size: side of the results in pixels.
      resize: see `decode`.

    Returns:
      images: uint8 [n, size, size, 3], black where an image is left.
      done: bool [n], whether an image was decoded.
    """

    def decode_one(part):
        content, kind, sides, is_turned = part
        own = tf.cond(kind == _JPEG, lambda: _jpeg_sides(content), lambda: sides[_PNG])
        usual = ~is_turned & (kind <= _PNG) & _is_wanted(kind, own)
        pixels = lambda: tf.cond(kind == _JPEG, lambda: _decode_jpeg(content), lambda: _decode_png(content))  # noqa: E731
        image = tf.cond(usual, lambda: views.prepare(pixels()[None], size, resize)[0], lambda: _nothing(size)[0])
        return image, usual

    signature = (tf.TensorSpec([size, size, 3], tf.uint8), tf.TensorSpec([], tf.bool))
    parts = (contents, *_read_headers(contents))
    return tf.map_fn(decode_one, parts, fn_output_signature=signature, parallel_iterations=PARALLEL)


def for_files(reason: str) -> str:
    """Return a reason of `decode` for an image in a file, with the formats that are read from files besides."""
    return f"{UNKNOWN[:-1]}, {', '.join(rare_formats.NAMES)})" if reason == UNKNOWN else reason


def _map(function, elements, size):
    signature = (tf.TensorSpec([size, size, 3], tf.uint8), tf.TensorSpec([2], tf.int64))
    return tf.map_fn(function, elements, fn_output_signature=signature, parallel_iterations=PARALLEL)


def _nothing(size):
    return tf.zeros([size, size, 3], tf.uint8), tf.constant([-1, -1], tf.int64)


def _attempt(make, otherwise):
    """Return the result of `make`, or `otherwise` if an operation in it fails; only a dataset can catch errors."""
    tried = tf.data.Dataset.from_tensors(0).map(lambda _: make()).ignore_errors()
    return tried.concatenate(tf.data.Dataset.from_tensors(otherwise)).take(1).get_single_element()


def _read_headers(contents):
    """Return what the first bytes of every image, string [n], say.

    Returns:
      kinds: int32 [n], index in FORMATS.
      sides: int64 [n, 5, 2], height and width for every possible format, 0 for JPEG, GIF and no format.
      turned: bool [n], whether the image may have another orientation than it is stored in.
    """
    headers = tf.cast(tf.io.decode_raw(contents, tf.uint8, fixed_length=_HEADER), tf.int64)
    fields = (*_PNG_SIDES, *_BMP_SIDES, *orientation.JPEG_FIELDS, *orientation.PNG_FIELDS)
    png_height, png_width, height, width, *markers, chunk = numbers(headers, *fields)
    height = tf.where(height >= 2**31, 2**32 - height, height)  # negative in a BMP that is stored from the top down
    kinds = _kinds(headers)
    turned = (kinds == _JPEG) & orientation.jpeg_may_be_turned(*markers)
    turned |= (kinds == _PNG) & orientation.png_may_be_turned(chunk)
    no = tf.zeros_like(height)
    sides = tf.stack([no, no, png_height, png_width, no, no, height, width, no, no], axis=1)
    return kinds, tf.reshape(sides, [-1, len(FORMATS) + 1, 2]), turned


def _orientations(contents, kinds, turned):
    """Return the orientations int64 [n] of images, of which some may be turned."""

    def find():
        chosen = tf.where(turned)
        found = orientation.find_orientations(tf.gather_nd(contents, chosen), tf.gather_nd(kinds, chosen) == _JPEG)
        return tf.tensor_scatter_nd_update(upright, chosen, found)

    upright = tf.ones_like(kinds, tf.int64)
    return tf.cond(tf.reduce_any(turned), find, lambda: upright)


def _kinds(headers):
    """Return the index of every image's format in FORMATS, recognized by its first bytes: int32 [n]."""
    longest = max(len(magic) for _, magic in FORMATS)
    wanted = np.array([[*magic, *[-1] * (longest - len(magic))] for _, magic in FORMATS])
    matches = tf.reduce_all((headers[:, None, :longest] == wanted) | (wanted < 0), axis=2)
    matches = tf.pad(tf.cast(matches, tf.int32), [[0, 0], [0, 1]], constant_values=1)  # the last index: no format
    return tf.argmax(matches, axis=1, output_type=tf.int32)


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def decode_at_own_size(contents):
    """Decode one image, string [] -> uint8 [h, w, 3]; an operation in it fails if that is not possible.

    It cannot be exported: what is rare is called as a function of Python, because all that it takes would be built anew
    for every iteration of a dataset, which takes as long as decoding hundreds of images.
    """
    kinds, sides, turned = _read_headers(contents[None])
    kind = kinds[0]
    rare = turned[0] | (kind > _PNG)

    def usual():
        own = tf.cond(kind == _JPEG, lambda: _jpeg_sides(contents), lambda: sides[0][_PNG])
        with demand(_is_wanted(kind, own), "not an image"):
            return tf.cond(kind == _JPEG, lambda: _decode_jpeg(tf.identity(contents)), lambda: _decode_png(contents))

    def other():
        pixels = tf.numpy_function(_try_to_decode, [contents], tf.uint8, stateful=False)
        with demand(tf.size(pixels) > 0, "not an image"):
            return tf.identity(pixels)

    return tf.ensure_shape(tf.cond(rare, other, usual), [None, None, 3])


def _try_to_decode(contents):
    """Decode any image to an array uint8 [h, w, 3]; return an empty one if that is not possible."""
    try:
        return decode_in_python(contents)
    except (tf.errors.OpError, ValueError):
        return np.zeros([0, 0, 3], np.uint8)


def decode_in_python(contents: bytes) -> np.ndarray:
    """Decode an image of any format outside of a graph, also in several threads at once.

    `decode_at_own_size` may wait for ever there: its call of Python takes a thread of TensorFlow and needs another one.

    Args:
      contents: its bytes.

    Returns:
      uint8 [h, w, 3].

    Raises:
      ValueError or an error of TensorFlow: it cannot be decoded.
    """
    if rare_formats.name_of(contents):
        return rare_formats.decode(contents)
    pixels, found = _decode_any(tf.constant(contents))
    return orientation.turn_array(pixels.numpy(), int(found))


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def _decode_any(contents):
    """Return the pixels of an image as they are stored, and its orientation."""
    kinds, sides, turned = _read_headers(contents[None])
    wanted = _is_wanted(kinds[0], _own_sides(contents, kinds[0], sides[0]))
    with demand(wanted, "not an image"):
        found = _orientations(contents[None], kinds, turned)[0]
    return _stored_pixels(contents, kinds[0]), found


def _decode_and_resize(part, size, resize):
    """Return an image uint8 [size, size, 3] and its own sides int64 [2]; black for too many pixels or no format."""
    contents, kind, sides, found = part
    sides = _own_sides(contents, kind, sides)
    image = lambda: views.prepare(_pixels(contents, kind, found)[None], size, resize)[0]  # noqa: E731
    return tf.cond(_is_wanted(kind, sides), image, lambda: _nothing(size)[0]), sides


def _own_sides(contents, kind, sides):
    """Return the sides int64 [2] of an image from those by format [5, 2]; JPEG and GIF are searched for them."""
    return tf.switch_case(
        tf.where(kind == _JPEG, 0, tf.where(kind == _GIF, 1, 2)),
        [lambda: _jpeg_sides(contents), lambda: gif.layout(contents)[0], lambda: sides[kind]],
    )


def _jpeg_sides(contents):
    """Return the sides int64 [2] of a JPEG, -1 if it has too few bytes for its pixels: a decoder would make them up."""
    sides = tf.cast(tf.io.extract_jpeg_shape(contents)[:2], tf.int64)
    possible = tf.reduce_prod(sides) <= _JPEG_PIXELS * tf.cast(tf.strings.length(contents), tf.int64)
    return tf.where(possible, sides, -1)


def _is_wanted(kind, sides):
    return (kind < _NO_FORMAT) & (tf.reduce_prod(sides) <= MAX_PIXELS) & (sides[0] >= 0)


def _decode_jpeg(contents):
    # The accurate transform is that of other decoders; the fast one is up to 5 grey levels off and no faster.
    return tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")


def _decode_png(contents):
    return tf.io.decode_png(contents, channels=3)


def _stored_pixels(contents, kind):
    """Decode an image of a known format to uint8 [h, w, 3], in the orientation that it is stored in."""
    decoders = (_decode_jpeg, _decode_png, gif.decode, bmp.decode)
    return tf.switch_case(kind, [functools.partial(decoder, contents) for decoder in decoders])


def _pixels(contents, kind, found):
    """Decode an image of a known format and orientation to uint8 [h, w, 3], upright."""
    pixels = _stored_pixels(contents, kind)
    pixels = tf.cond(found > 1, lambda: orientation.turn(pixels, found), lambda: pixels)
    return tf.ensure_shape(pixels, [None, None, 3])


def _reasons(contents, kinds, sides):
    """Return why decoding failed, string [n]; empty where it succeeded."""
    names = tf.gather(tf.constant([*(name for name, _ in FORMATS), ""]), kinds)
    height, width = (tf.strings.as_string(side) for side in tf.unstack(sides, axis=1))
    large = tf.strings.join(["is a ", names, " of ", width, "x", height, f" pixels, more than {MAX_PIXELS}"])
    damaged = tf.strings.join(["is a ", names, f" {UNDECODABLE}"])
    reasons = tf.where(sides[:, 0] * sides[:, 1] > MAX_PIXELS, large, "")
    reasons = tf.where(sides[:, 0] < 0, damaged, reasons)
    reasons = tf.where(kinds == _NO_FORMAT, UNKNOWN, reasons)
    return tf.where(tf.strings.length(contents) == 0, "is empty", reasons)
