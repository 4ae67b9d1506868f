"""Decodes BMP in the graph: palettes of 1, 4 and 8 bits, and colours of 16, 24 and 32 bits, uncompressed.

TensorFlow's decoder knows neither palettes nor 16 bits, and refuses a file with more bytes than its pixels take.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mcl_tf.data.encoded_bytes import demand, numbers_at

_PLAIN, _BITFIELDS = 0, 3  # compression
_FIELDS = ((10, 4), (14, 4), (18, 4), (22, 4), (28, 2), (30, 4), (46, 4), (54, 4), (58, 4), (62, 4))
_BITS = (1, 4, 8, 16, 24, 32)
_BYTE_MASKS = 255 * 256 ** np.arange(4)
# Masks of red, green and blue: the usual ones, and those of 16 bits with six for green.
_USUAL = {16: (0x7C00, 0x3E0, 0x1F), 32: (0xFF0000, 0xFF00, 0xFF)}
_SIX_BITS = (0xF800, 0x7E0, 0x1F)


# A call of its own: inlined, its many unused operations would take a third of the time of a small PNG.
@tf.function(
    input_signature=[tf.TensorSpec([], tf.string)], autograph=False, experimental_attributes={"_noinline": True}
)
def decode(contents):
    """Decode a BMP, string [] -> uint8 [h, w, 3]; an operation fails if that is not possible."""
    offset, header, width, height, bits, compression, colours, *masks = numbers_at(contents, 0, *_FIELDS)
    is_top_down = height >= 2**31
    height = tf.where(is_top_down, 2**32 - height, height)
    has_masks = compression == _BITFIELDS
    row = (width * bits + 31) // 32 * 4
    is_whole = offset + row * height <= tf.cast(tf.strings.length(contents), tf.int64)
    is_known = tf.reduce_any(bits == _BITS) & ((compression == _PLAIN) | (has_masks & (bits >= 16))) & (header >= 40)
    with demand(is_known & is_whole & (width > 0) & (height > 0), "a cut, compressed or very old BMP"):
        rows = tf.io.decode_raw(tf.strings.substr(contents, offset, row * height), tf.uint8)
    rows = tf.reshape(rows, [height, row])
    usual = tf.where(bits == 16, tf.constant(_USUAL[16], tf.int64), _USUAL[32])
    masks = tf.where(has_masks, tf.stack(masks), usual)
    pixels = tf.switch_case(
        tf.cast(bits >= 16, tf.int32) + tf.cast(bits >= 24, tf.int32),
        [
            lambda: _by_palette(rows, bits, _palette(contents, header, offset, colours, bits)),
            lambda: _from_16_bits(rows, masks),
            lambda: _from_bytes(rows[:, : bits // 8 * width], bits // 8, masks),
        ],
    )[:, :width]
    return tf.raw_ops.Reverse(tensor=pixels, dims=tf.stack([~is_top_down, False, False]))


def _palette(contents, header, offset, count, bits):
    """Return the colours uint8 [256, 3] of a BMP, black where it states none."""
    most = tf.bitwise.left_shift(tf.constant(1, tf.int64), bits)
    count = tf.where(count == 0, most, count)
    with demand((count <= most) & (14 + header + 4 * count <= offset), "a BMP's palette"):
        table = tf.strings.substr(contents, 14 + header, 4 * count)
    table = tf.io.decode_raw(table, tf.uint8, fixed_length=4 * 256)
    return tf.reshape(table, [256, 4])[:, 2::-1]  # blue, green, red, unused


def _by_palette(rows, bits, palette):
    """Return the colours uint8 [h, w, 3] of rows of indices uint8 [h, bytes]; the first one has the highest bits."""
    shifts = tf.range(8 - bits, -1, -bits)
    most = tf.bitwise.left_shift(tf.constant(1, tf.int64), bits) - 1
    indices = tf.bitwise.bitwise_and(tf.bitwise.right_shift(tf.range(256, dtype=tf.int64)[:, None], shifts), most)
    of_byte = tf.reshape(tf.gather(palette, indices), [256, -1])
    return tf.reshape(tf.gather(of_byte, tf.cast(rows, tf.int32)), [tf.shape(rows, tf.int64)[0], -1, 3])


def _from_16_bits(rows, masks):
    has_six = tf.reduce_all(masks == _SIX_BITS)
    with demand(has_six | tf.reduce_all(masks == _USUAL[16]), "a BMP of 16 bits with other masks"):
        values = tf.bitcast(tf.reshape(rows, [tf.shape(rows, tf.int64)[0], -1, 2]), tf.uint16)
    values = tf.cast(values, tf.int32)
    red, green = tf.where(has_six, 2048, 1024), tf.where(has_six, 63, 31)
    channels = [values // red % 32 * 255 // 31, values // 32 % (green + 1) * 255 // green, values % 32 * 255 // 31]
    return tf.cast(tf.stack(channels, -1), tf.uint8)


def _from_bytes(rows, count, masks):
    is_channel = masks[:, None] == _BYTE_MASKS
    with demand(tf.reduce_all(tf.reduce_any(is_channel, 1)), "a BMP with other masks"):
        channels = tf.argmax(is_channel, axis=1)
    return tf.gather(tf.reshape(rows, [tf.shape(rows, tf.int64)[0], -1, count]), channels, axis=2)
