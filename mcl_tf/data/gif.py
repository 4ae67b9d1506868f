"""Decodes the first frame of a GIF in the graph, in the time and memory of that frame, and places it on its canvas.

A viewer shows a frame on the canvas that the file states; a canvas that is too small for the frame grows. Around the
frame, the canvas has the transparent colour of the frame, or the first colour of its table. Transparent pixels have the
colour that the table gives them, as those of a PNG do. Pillow does all of this, too.
"""

from __future__ import annotations

import tensorflow as tf

from mcl_tf.data.encoded_bytes import bytes_at, demand, numbers_at

_MAX_BLOCKS = 2**20  # 267 MB of data in blocks of the usual size
_EXTENSION, _CONTROL, _FRAME = 0x21, 0xF9, 0x2C
_TABLE = 256 * 3  # bytes of the largest colour table
_SIGNATURE = [tf.TensorSpec([], tf.string)]


# A call of its own: inlined, its unused operations would cost every image.
@tf.function(input_signature=_SIGNATURE, autograph=False, experimental_attributes={"_noinline": True})
def layout(contents):
    """Return where the first frame of a GIF, string [], is and what it covers, without decoding it.

    Returns:
      canvas: int64 [2], height and width.
      corner: int64 [2], top and left of the frame.
      sides: int64 [2], height and width of the frame.
      position: int64 [], of the frame in the file.
      transparent: int64 [], index of the transparent colour, 0 without one.
    """
    width, height, flags = numbers_at(contents, 0, (6, 2), (8, 2), (10, 1))

    def step(position, transparent):
        label, size, packed, index = numbers_at(contents, position, (1, 1), (2, 1), (3, 1), (6, 1))
        is_control = (label == _CONTROL) & (size == 4)
        return _skip_blocks(contents, position + 2), tf.where(is_control, packed % 2 * index, transparent)

    position, transparent = tf.while_loop(
        lambda position, _: bytes_at(contents, position, 1)[0] == _EXTENSION,
        step,
        (13 + _table_size(flags), tf.constant(0, tf.int64)),
        maximum_iterations=_MAX_BLOCKS,
    )
    kind, left, top, frame_width, frame_height = numbers_at(contents, position, (0, 1), (1, 2), (3, 2), (5, 2), (7, 2))
    corner = tf.stack([top, left])
    with demand(kind == _FRAME, "a GIF without a frame"):
        sides = tf.stack([frame_height, frame_width])
    return tf.maximum(tf.stack([height, width]), corner + sides), corner, sides, position, transparent


@tf.function(input_signature=_SIGNATURE, autograph=False, experimental_attributes={"_noinline": True})
def decode(contents):
    """Decode the first frame of a GIF, string [] -> uint8 [h, w, 3]; an operation fails if that is not possible."""
    canvas, corner, sides, frame, transparent = layout(contents)
    table, data, interlaced = _tables(contents, frame)
    end = _skip_blocks(contents, data + 1)
    is_whole = end <= tf.cast(tf.strings.length(contents), tf.int64)
    with demand(is_whole & tf.reduce_all(sides > 0), "a GIF's frame"):
        encoded = tf.strings.substr(contents, data, end - data)
    # A file of this frame alone, with a full colour table: a decoder takes the memory of all frames at once, leaves
    # transparent pixels out, and fails at colours outside of the table.
    size = tf.strings.substr(contents, frame + 5, tf.constant(4, tf.int64))
    table = tf.strings.substr(tf.strings.join([table, bytes(_TABLE)]), 0, _TABLE)
    flags = tf.where(interlaced, b"\x40", b"\0")
    parts = [b"GIF89a", size, b"\xf7\0\0", table, b",\0\0\0\0", size, flags, encoded, b";"]
    pixels = tf.io.decode_image(tf.strings.join(parts), channels=3, expand_animations=False)
    colour = tf.cast(bytes_at(table, 3 * transparent, 3), tf.uint8)
    return _placed(tf.ensure_shape(pixels, [None, None, 3]), colour, canvas, corner)


def _tables(contents, frame):
    """Return the colour table of a frame, the position of its data, and whether its lines are interlaced."""
    own_flags, flags = bytes_at(contents, frame + 9, 1)[0], bytes_at(contents, 10, 1)[0]
    own_size, common_size = _table_size(own_flags), _table_size(flags)
    start = tf.where(own_size > 0, frame + 10, tf.constant(13, tf.int64))
    size = tf.where(own_size > 0, own_size, common_size)
    with demand(size > 0, "a GIF without colours"):
        table = tf.strings.substr(contents, start, size)
    return table, frame + 10 + own_size, own_flags // 64 % 2 == 1


def _table_size(flags):
    """Return the bytes of a colour table from the flags of its descriptor."""
    return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(tf.constant(2, tf.int64), flags % 8), 0)


def _skip_blocks(contents, position):
    """Return the position behind a sequence of blocks; behind the end of the file if the sequence does not end."""

    def step(position, size):
        position += 1 + size
        return position, bytes_at(contents, position, 1)[0]

    first = bytes_at(contents, position, 1)[0]
    end, size = tf.while_loop(lambda _, size: size > 0, step, (position, first), maximum_iterations=_MAX_BLOCKS)
    return end + 1 + size * 2**40


def _placed(pixels, colour, canvas, corner):
    """Return a canvas uint8 [h, w, 3] of one colour with the pixels on it."""
    blank = tf.broadcast_to(colour, tf.concat([canvas, [3]], 0))
    begin = tf.concat([corner, [0]], 0)
    end = begin + tf.shape(pixels, tf.int64)
    return tf.raw_ops.TensorStridedSliceUpdate(
        input=blank, begin=begin, end=end, strides=tf.ones_like(begin), value=pixels
    )
