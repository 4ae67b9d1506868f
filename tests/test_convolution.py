"""The convolution by minimal filtering, against the plain one in float64."""

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import convolution
from mcl_tf.convolution import Conv2D, convolve


def with_gradients(function, inputs, filters, upstream):
    """The function's results and its two gradients."""
    inputs, filters = tf.convert_to_tensor(inputs), tf.convert_to_tensor(filters)
    with tf.GradientTape() as tape:
        tape.watch([inputs, filters])
        results = function(inputs, filters)
    return results, *tape.gradient(results, [inputs, filters], output_gradients=upstream)


@pytest.mark.parametrize(
    ("count", "height", "width", "channels", "filters"),
    [(3, 4, 4, 5, 6), (2, 5, 7, 3, 4), (4, 2, 3, 8, 3), (1, 1, 1, 2, 2), (2, 8, 6, 64, 16)],
)
def test_it_and_its_gradients_are_the_plain_ones(count, height, width, channels, filters):
    random = np.random.default_rng(0)
    inputs = random.normal(size=(count, height, width, channels))
    weights = random.normal(size=(3, 3, channels, filters)) / np.sqrt(9 * channels)
    upstream = random.normal(size=(count, height, width, filters))
    expected = with_gradients(lambda x, w: tf.nn.conv2d(x, w, 1, "SAME"), inputs, weights, upstream)
    # The number of pictures is open, as in the graph of a network.
    shapes = [[None, height, width, channels], weights.shape, [None, height, width, filters]]
    signature = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
    function = tf.function(lambda *tensors: with_gradients(convolve, *tensors), signature, autograph=False)
    found = function(*(tf.constant(array, tf.float32) for array in (inputs, weights, upstream)))
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        # Errors are 1e-6 of what the results spread, the largest of thousands five times as large.
        np.testing.assert_allclose(one, other, atol=1e-5 * np.std(other))


def test_it_rounds_about_as_the_plain_one():
    random = np.random.default_rng(1)
    arrays = [random.normal(size=shape) for shape in ((8, 8, 8, 64), (3, 3, 64, 64), (8, 8, 8, 64))]
    single = [array.astype(np.float32) for array in arrays]
    exact = with_gradients(lambda x, w: tf.nn.conv2d(x, w, 1, "SAME"), *(a.astype(np.float64) for a in single))
    plain = with_gradients(lambda x, w: tf.nn.conv2d(x, w, 1, "SAME"), *single)
    found = with_gradients(convolve, *single)
    # 2.3, 2.3 and 2.0 times with AVX2. A sum in more parts rounds less: with AVX-512 oneDNN takes more for the
    # gradient by filters, and ours is 5 times as far off. With the points 0, 1, -1, 2, -2 all would be twice that.
    for ours, theirs, true, bound in zip(found, plain, exact, (3.5, 3.5, 7.5), strict=True):
        assert np.std(ours.numpy() - true.numpy()) < bound * np.std(theirs.numpy() - true.numpy())


def calls_of(monkeypatch, layer, inputs, training=True) -> int:
    """How often the layer takes `convolve`; its results are checked against Keras' own."""
    calls = []

    def record(*tensors):
        calls.append(tensors)
        return convolve(*tensors)

    monkeypatch.setattr(convolution, "convolve", record)
    monkeypatch.setattr(convolution, "_processor_features", lambda: {"avx2"})
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    found = layer(inputs, training=training)
    np.testing.assert_allclose(found, tf.keras.layers.Conv2D.call(layer, inputs), atol=1e-4)
    return len(calls)


@pytest.mark.parametrize(
    ("case", "changes", "shape"),
    [
        ("fits", {}, (2, 4, 4, 128)),
        ("fits, part of a tile empty", {}, (2, 7, 7, 128)),
        ("most of a tile empty", {}, (2, 6, 6, 128)),
        ("few inputs", {}, (2, 4, 4, 127)),
        ("few filters", {"filters": 127}, (2, 4, 4, 128)),
        ("strides", {"strides": 2}, (2, 4, 4, 128)),
        ("pointwise", {"kernel_size": 1}, (2, 4, 4, 128)),
        ("valid", {"padding": "valid"}, (2, 4, 4, 128)),
        ("dilated", {"dilation_rate": 2}, (2, 4, 4, 128)),
        ("bias", {"use_bias": True}, (2, 4, 4, 128)),
        ("activation", {"activation": "relu"}, (2, 4, 4, 128)),
        ("one pixel", {}, (2, 1, 4, 128)),
        ("other precision", {"dtype": "float64"}, (2, 4, 4, 128)),
    ],
)
def test_only_what_fits_takes_it(monkeypatch, case, changes, shape):
    given = {"filters": 128, "kernel_size": 3, "padding": "same", "use_bias": False, **changes}
    layer = Conv2D(**given)
    inputs = tf.random.stateless_normal(shape, [0, 1], dtype=given.get("dtype", "float32"))
    assert calls_of(monkeypatch, layer, inputs) == case.startswith("fits")


def test_inference_keeps_keras_own(monkeypatch):
    layer = Conv2D(128, 3, padding="same", use_bias=False)
    inputs = tf.random.stateless_normal((2, 4, 4, 128), [0, 1])
    assert calls_of(monkeypatch, layer, inputs, training=False) == 0


@pytest.mark.parametrize(
    ("flags", "onednn", "devices", "expected"),
    [
        ("fpu sse4_2 avx2 fma", "1", ["CPU", "CPU"], True),
        ("fpu sse4_2", "1", ["CPU"], False),
        ("fpu avx2 avx512f", "1", ["CPU"], True),
        ("fpu avx2", "0", ["CPU"], False),
        ("fpu avx2", "1", ["CPU", "GPU"], False),
        (None, "1", ["CPU"], False),
    ],
)
def test_it_is_for_the_machines_it_was_measured_on(monkeypatch, tmp_path, flags, onednn, devices, expected):
    description = tmp_path / "cpuinfo"
    if flags is not None:
        description.write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: {flags}\n")
    features = convolution._processor_features(str(description))
    monkeypatch.setattr(convolution, "_processor_features", lambda: features)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", onednn)
    found = [tf.config.LogicalDevice(f"/device:{kind}:{place}", kind) for place, kind in enumerate(devices)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda: found)
    assert convolution.is_faster_here() == expected


def test_it_is_named_as_keras_own():
    # Files of weights name the layers.
    names = [type(layer)(1, 1).name for layer in (Conv2D(1, 1), tf.keras.layers.Conv2D(1, 1))]
    assert [name.rstrip("_0123456789") for name in names] == ["conv2d", "conv2d"]
