"""Decoding of all formats and kinds of images, and the reasons why others cannot be decoded."""

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import views
from mcl_tf.data import decoding
from tests.encoded_images import BAD, GOOD, IMAGE, encode_png, seen
from tests.helpers import encode

SIZE = 16
decode = tf.function(
    lambda contents: decoding.decode(contents, SIZE), input_signature=[tf.TensorSpec([None], tf.string)]
)


def pixels_of(kind):
    """The pixels that a good image stands for."""
    content, pixels = GOOD[kind]
    return seen(content) if pixels is None else pixels


@pytest.mark.parametrize("kind", GOOD)
def test_decodes_all_kinds_of_images(kind):
    content = GOOD[kind][0]
    # A bad image in the batch selects the other branch of the decoder.
    for contents in ([content], [content, b"bad"]):
        images, reasons = decode(contents)
        assert reasons[0].numpy() == b""
        np.testing.assert_array_equal(images[0], views.prepare(pixels_of(kind)[None], SIZE)[0])


@pytest.mark.parametrize("kind", GOOD)
def test_decodes_at_own_size(kind):
    np.testing.assert_array_equal(decoding.decode_at_own_size(tf.constant(GOOD[kind][0])), pixels_of(kind))


@pytest.mark.parametrize("kind", BAD)
def test_reports_why_an_image_cannot_be_decoded(kind):
    content, reason = BAD[kind]
    images, reasons = decode([encode(IMAGE), content])
    assert [text.decode() for text in reasons.numpy()] == ["", reason]
    np.testing.assert_array_equal(images[0], views.prepare(IMAGE[None], SIZE)[0])
    assert not images[1].numpy().any()


@pytest.mark.parametrize("kind", [kind for kind in BAD if kind not in ("WebP", "TIFF")])
def test_decoding_at_own_size_fails_for_a_bad_image(kind):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoding.decode_at_own_size(tf.constant(BAD[kind][0]))


def test_decodes_an_empty_batch():
    images, reasons = decode(tf.constant([], tf.string))
    assert (images.shape, reasons.shape) == ((0, SIZE, SIZE, 3), (0,))


def test_names_every_bad_image_in_the_error():
    contents = [encode(IMAGE), b"", encode(IMAGE), b"bad"]
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        decoding.decode_or_fail(tf.constant(contents), SIZE)
    assert "image_bytes[1] is empty; image_bytes[3] is not an image of a known format" in error.value.message
    np.testing.assert_array_equal(
        decoding.decode_or_fail(tf.constant(contents[::2]), SIZE), views.prepare(np.stack([IMAGE] * 2), SIZE)
    )


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("sides", [(16, 16), (33, 20), (1, 1), (5, 300)])
def test_decodes_to_what_training_sees(channels, sides, rng):
    images = rng.integers(0, 256, (4, *sides, channels), dtype=np.uint8)
    decoded, reasons = decode([encode(image) for image in images])
    assert list(reasons.numpy()) == [b""] * 4
    np.testing.assert_array_equal(decoded, views.prepare(images, SIZE))


def test_decodes_an_image_of_a_hundred_million_pixels():
    content = encode_png(10_000, 10_000, 8, 0, (b"\0" + bytes([200]) * 10_000) * 10_000)
    images, reasons = decode([content])
    assert reasons[0].numpy() == b""
    assert (images.numpy() == 200).all()
