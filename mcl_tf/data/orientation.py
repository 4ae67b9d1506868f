"""Orientation of photographs: how a camera was held when it took the picture.

The tag 0x0112 of the first EXIF block counts, which a JPEG has in the segment APP1 and a PNG in the chunk eXIf, before
the image data. Whatever is malformed counts as upright.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mcl_tf.data.encoded_bytes import bytes_at, numbers, numbers_at

_TAG, _SHORT, _LONG = 0x0112, 3, 4
_MAX_SEGMENTS, _MAX_ENTRIES = 1000, 100  # of a file, of an image file directory
_ENTRY = ((0, 2), (2, 2), (4, 4), (8, 2), (8, 4))  # tag, type, number of values, a value of each type
_ENTRY_BYTES = 12
_EXIF, _EXIF_CHUNK, _DATA_CHUNK = (int.from_bytes(name, "big") for name in (b"Exif", b"eXIf", b"IDAT"))
_LOW_FIRST, _HIGH_FIRST = (int.from_bytes(start, "big") for start in (b"II*\0", b"MM\0*"))
_APP0, _APP1, _APP15, _COMMENT, _SCAN, _FILL = 0xFFE0, 0xFFE1, 0xFFEF, 0xFFFE, 0xFFDA, 0xFFFF
# The numbers of a header that decide whether an image is searched at all.
JPEG_FIELDS = ((2, -2), (4, -2), (20, -2))
PNG_FIELDS = ((37, -4),)


def jpeg_may_be_turned(marker, length, second):
    """Return whether a JPEG has segments in which to look for an orientation; most begin with APP0 and the tables.

    Args:
      marker: int64, the first marker.
      length: the length of its segment.
      second: the marker behind a segment of the usual length of APP0.
    """
    marker = tf.where((marker == _APP0) & (length == 16), second, marker)
    return ((marker >= _APP0) & (marker <= _APP15)) | (marker >= _COMMENT)


def png_may_be_turned(second):
    """Return whether a PNG has chunks in which to look for an orientation.

    Args:
      second: int64, the name of the second chunk.
    """
    return second != _DATA_CHUNK


def find_orientations(contents, is_jpeg):
    """Return the orientations of images: int64 [n], 1 to 8; 1 is upright.

    Args:
      contents: string [n], the bytes of JPEG and PNG.
      is_jpeg: bool [n].
    """
    lengths = tf.cast(tf.strings.length(contents), tf.int64)
    zeros = tf.zeros_like(lengths)

    def step(positions, starts, sizes):
        """Go on by one segment, or stay at the EXIF block or the end."""
        fields = ((0, -2), (2, -2), (0, -4), (4, -4), (8, -2))
        marker, size, chunk_size, name, end = numbers_at(contents, positions, *fields)
        filled = marker == _FILL  # a marker may be filled up
        is_last = (marker <= 0xFF00) | (marker == _SCAN) | (~filled & (size < 2))
        is_exif = (marker == _APP1) & (size >= 8) & (name == _EXIF) & (end == 0)
        is_last = tf.where(is_jpeg, is_last, name == _DATA_CHUNK)
        is_exif = tf.where(is_jpeg, is_exif, name == _EXIF_CHUNK) & (positions < lengths)
        starts = tf.where(is_exif, positions + tf.where(is_jpeg, zeros + 10, 8), starts)
        sizes = tf.where(is_exif, tf.where(is_jpeg, size - 8, chunk_size), sizes)
        following = positions + tf.where(is_jpeg, tf.where(filled, zeros + 1, size + 2), chunk_size + 12)
        return tf.where(is_exif | is_last, lengths, following), starts, sizes

    _, starts, sizes = tf.while_loop(
        lambda positions, *_: tf.reduce_any(positions < lengths),
        step,
        (tf.where(is_jpeg, zeros + 2, 8), zeros, zeros),
        maximum_iterations=_MAX_SEGMENTS,
    )
    return _read_tags(tf.strings.substr(contents, tf.minimum(starts, lengths), sizes))


def _read_tags(exif):
    """Return the orientations that EXIF blocks, string [n], state: int64 [n], 1 where they state none."""
    order, offset, offset_high_first = numbers_at(exif, tf.zeros_like(exif, tf.int64), (0, -4), (4, 4), (4, -4))
    low_first, high_first = order == _LOW_FIRST, order == _HIGH_FIRST
    offset = tf.where(low_first, offset, offset_high_first)
    table = bytes_at(exif, offset, 2 + _MAX_ENTRIES * _ENTRY_BYTES)
    high_fields = [(position, -width) for position, width in _ENTRY]
    count = tf.where(low_first, *numbers(table[:, :2], (0, 2), (0, -2)))
    entries = tf.reshape(table[:, 2:], [-1, _MAX_ENTRIES, _ENTRY_BYTES])
    choices = zip(numbers(entries, *_ENTRY), numbers(entries, *high_fields), strict=True)
    tag, kind, values, short, long = (tf.where(low_first[:, None], low, high) for low, high in choices)
    value = tf.where(kind == _SHORT, short, tf.where(kind == _LONG, long, 1))
    stated = (tag == _TAG) & (values == 1) & (value <= 8) & (tf.range(_MAX_ENTRIES, dtype=tf.int64) < count[:, None])
    stated &= (low_first | high_first)[:, None]
    return tf.maximum(tf.reduce_max(tf.where(stated, value, 1), axis=1), 1)


def turn(image, orientation):
    """Turn an image upright.

    Args:
      image: uint8 [h, w, 3], as it is stored.
      orientation: int64, 1 to 8.

    Returns:
      uint8 [h, w, 3], or [w, h, 3] for 5 to 8.
    """
    image = tf.transpose(image, tf.where(orientation >= 5, (1, 0, 2), (0, 1, 2)))
    is_one_of = lambda *values: tf.reduce_any(orientation == tf.constant(values, tf.int64))  # noqa: E731
    mirrored = tf.stack([is_one_of(3, 4, 7, 8), is_one_of(2, 3, 6, 7), False])
    return tf.raw_ops.Reverse(tensor=image, dims=mirrored)  # tf.reverse needs to know the axes


def turn_array(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an image upright outside of a graph, see `turn`."""
    image = image.transpose(1, 0, 2) if orientation >= 5 else image
    image = image[::-1] if orientation in (3, 4, 7, 8) else image
    return image[:, ::-1] if orientation in (2, 3, 6, 7) else image
