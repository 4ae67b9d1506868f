"""The images that picture and page share."""

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf.report import drawing


@pytest.mark.parametrize("wanted", [[], [0], [3, 150, 64, 63, 3, 149]])
def test_wanted_images_are_read_in_one_pass(wanted, rng):
    images, passes = rng.integers(0, 256, (151, 4, 4, 3), dtype=np.uint8), []

    def read():
        passes.append(1)
        yield from zip(images, range(151), strict=True)

    specification = tf.TensorSpec((4, 4, 3), tf.uint8), tf.TensorSpec((), tf.int64)
    test = tf.data.Dataset.from_generator(read, output_signature=specification)
    found = drawing.read_images(test, np.array(wanted, int))
    assert sorted(found) == sorted(set(wanted))
    assert passes == [1]
    for index, image in found.items():
        np.testing.assert_array_equal(image, images[index])
        assert image.base is None  # the rest of its batch is not kept
