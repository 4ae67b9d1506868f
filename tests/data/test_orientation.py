"""Orientation of photographs: where its tag is found, and what counts as upright."""

import struct

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf.data import orientation
from tests.encoded_images import IMAGE, turned
from tests.helpers import encode

find = tf.function(
    orientation.find_orientations,
    input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.bool)],
)


def orientations(*contents):
    return find(tf.constant(contents), [content.startswith(b"\xff\xd8") for content in contents]).numpy().tolist()


def segment(marker, content):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def exif(value=6, tag=0x0112, kind=3, count=1, order=b"II*\0", offset=8, entries=1):
    """An EXIF block with one entry."""
    high = "<" if order.startswith(b"I") else ">"
    entry = struct.pack(high + ("HHIHxx" if kind == 3 else "HHII"), tag, kind, count, value)
    return b"Exif\0\0" + order + struct.pack(high + "IH", offset, entries) + entry


PLAIN = encode(IMAGE, "JPEG")


def with_segments(*segments):
    return PLAIN[:2] + b"".join(segments) + PLAIN[2:]


def test_finds_the_orientation_of_every_image_of_a_batch():
    contents = [turned(i, form, order) for i in range(1, 9) for form in ("JPEG", "PNG") for order in "<>"]
    assert orientations(*contents, PLAIN, encode(IMAGE)) == [*np.repeat(range(1, 9), 4), 1, 1]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (with_segments(segment(0xE1, exif())), 6),
        (with_segments(segment(0xE1, exif(order=b"MM\0*"))), 6),
        (with_segments(segment(0xE1, exif(kind=4))), 6),
        (with_segments(b"\xff\xff", segment(0xE1, exif())), 6),  # fill bytes before a marker
        (with_segments(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0"), segment(0xE1, exif())), 6),
        (with_segments(segment(0xFE, b"a comment"), segment(0xED, bytes(60000)), segment(0xE1, exif())), 6),
        (with_segments(segment(0xE1, exif()), segment(0xE1, exif(3))), 6),  # the first one counts
        (with_segments(segment(0xE2, exif())), 1),
        (with_segments(segment(0xFE, b"Exif\0\0" + exif())), 1),
        (PLAIN + segment(0xE1, exif()), 1),
        (with_segments(segment(0xE1, b"Exif\0\0")), 1),
        (with_segments(segment(0xE1, exif()[:20])), 1),
        (with_segments(segment(0xE1, exif(order=b"XX*\0"))), 1),
        (with_segments(segment(0xE1, exif(offset=2**32 - 1))), 1),
        (with_segments(segment(0xE1, exif(entries=0))), 1),
        (with_segments(segment(0xE1, exif(entries=65535))), 6),
        *((with_segments(segment(0xE1, exif(value))), 1) for value in (0, 9, 65535)),
        (with_segments(segment(0xE1, exif(kind=7))), 1),
        (with_segments(segment(0xE1, exif(count=2))), 1),
        (with_segments(segment(0xE1, exif(tag=0x0113))), 1),
        (PLAIN[:2] + b"\xff\xe1\0\0Exif\0\0" + PLAIN[2:], 1),
        (PLAIN[:2] + b"\xff\xe1", 1),
    ],
)
def test_malformed_counts_as_upright(content, expected):
    assert orientations(content, turned(3)) == [expected, 3]


def test_ends_for_any_bytes():
    rng = np.random.default_rng(0)
    start = with_segments(segment(0xE1, exif()))[:60]
    contents = [start[:n] + rng.integers(0, 256, 300, dtype=np.uint8).tobytes() for n in range(2, 60)]
    assert set(orientations(*contents)) <= set(range(1, 9))


@pytest.mark.parametrize("value", range(1, 9))
def test_turns_like_pillow(value, rng):
    from PIL import Image, ImageOps

    image = rng.integers(0, 256, (3, 5, 3), dtype=np.uint8)
    pillow = Image.fromarray(image)
    pillow.getexif()[0x0112] = value
    found = orientation.turn(tf.constant(image), tf.constant(value, tf.int64))
    np.testing.assert_array_equal(found, np.array(ImageOps.exif_transpose(pillow)))
