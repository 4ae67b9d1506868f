"""The networks' convolution, by Winograd's minimal filtering where they train on a CPU.

With oneDNN a training step is convolutions. For 16 results a plain one takes 144 products, minimal filtering 36,
and here all three passes are matrix products. Results are off by 1e-6 of their size, twice as much as plain sums.

References: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016 (arXiv:1509.09308),
section 4.3, F(4x4, 3x3); Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution for
Deep Neural Networks", ACM TOMS 46 (2020; arXiv:1803.10986), on the choice of points.
"""

from __future__ import annotations

import functools
import os
import pathlib

import numpy as np
import tensorflow as tf

_SIDE, _TILE, _STEP = 3, 6, 4  # pixels of a filter's side, of a tile's, and from one tile to the next
# Where the polynomials are evaluated, beside infinity. With the usual 0, 1, -1, 2, -2 errors are twice as large.
_POINTS = np.array([0.0, 0.75, -0.75, 1.5, -1.5])
_MIN_CHANNELS = 128  # with fewer the transforms, bound by memory, cost what the products save
_MAX_COVER = 1.5  # the tiles' results by the wanted ones: 6x6 pixels, which take four tiles, were slower


def _transforms():
    """(A, G, B): four results of a filter g over six pixels d are A ((G g) * (B d)); A and B are exact in float32.

    A filter and its results are the coefficients of two polynomials whose product the pixels weigh: G and A
    evaluate them at the points and, last, at infinity, B interpolates.
    """
    results, filters = (
        np.vstack([np.vander(_POINTS, count, increasing=True), np.eye(count)[-1]]) for count in (_STEP, _SIDE)
    )
    others = [np.delete(_POINTS, place) for place in range(len(_POINTS))]
    scales = [np.prod(point - rest) for point, rest in zip(_POINTS, others, strict=True)]
    pixels = [np.pad(np.poly(rest)[::-1], (0, 1)) for rest in others] + [np.poly(_POINTS)[::-1]]
    return results.T, filters / np.append(scales, 1.0)[:, None], np.stack(pixels)


# For squares the matrices act on both sides.
_RESULTS, _FILTERS, _PIXELS = (np.kron(matrix, matrix).astype(np.float32) for matrix in _transforms())


@tf.keras.utils.register_keras_serializable("mcl_tf")
class Conv2D(tf.keras.layers.Conv2D):
    """`tf.keras.layers.Conv2D`, in training on CPUs by `convolve` where that is possible and faster."""

    def call(self, inputs, training=False):
        if training and self._fits(inputs):
            return convolve(inputs, tf.convert_to_tensor(self.kernel))
        return super().call(inputs)

    def _fits(self, inputs) -> bool:
        form = (self.kernel_size, self.strides, self.dilation_rate, self.padding, self.groups, self.use_bias)
        plain = form == ((_SIDE, _SIDE), (1, 1), (1, 1), "same", 1, False)
        plain = plain and self.activation is tf.keras.activations.linear and inputs.dtype == tf.float32
        sides = inputs.shape[1:3]
        if not plain or None in sides or min(inputs.shape[-1], self.filters) < _MIN_CHANNELS:
            return False
        covered = np.prod([count * _STEP for count, _ in _tiling(inputs)])
        return covered <= _MAX_COVER * np.prod(sides) and is_faster_here()


def is_faster_here() -> bool:
    """Whether `convolve` was measured to be faster on machines of this kind: with oneDNN, AVX2 and no GPU."""
    devices = {device.device_type for device in tf.config.list_logical_devices()}
    onednn = os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "1"
    return devices == {"CPU"} and onednn and "avx2" in _processor_features()


@functools.cache
def _processor_features(path: str = "/proc/cpuinfo") -> frozenset[str]:
    """What the processor can, as Linux names it; empty where it does not tell."""
    try:
        lines = pathlib.Path(path).read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))


@tf.custom_gradient
def convolve(inputs, filters):
    """Convolution with stride 1 and padding "same".

    Args:
      inputs: float32 [n, h, w, c], h and w known.
      filters: float32 [3, 3, c, d].

    Returns:
      float32 [n, h, w, d].
    """
    height, width = inputs.shape[1:3]

    def gradient(upstream):
        # Made anew: kept from the forward pass the tiles would take more than twice the memory of the inputs.
        with tf.control_dependencies([upstream]):
            tiles = _input_tiles(tf.identity(inputs))
        by_inputs = _filtered(_input_tiles(upstream), filters, height, width, turned=True)
        return by_inputs, _filter_gradient(tiles, upstream)

    return _filtered(_input_tiles(inputs), filters, height, width), gradient


def _input_tiles(images):
    """The transformed tiles [36, n * tiles, c] of images [n, h, w, c]."""
    (rows, below), (columns, beside) = _tiling(images)
    padded = tf.pad(images, [[0, 0], [1, 1 + below], [1, 1 + beside], [0, 0]])
    tiles = tf.matmul(_PIXELS, _squares(padded, rows, columns, _TILE))
    return tf.reshape(tiles, [_TILE**2, -1, images.shape[-1]])


def _filtered(tiles, filters, height: int, width: int, turned: bool = False):
    """The convolution [n, height, width, d] of what `_input_tiles` gave.

    `turned` is for the gradient by the inputs: the tiles are the upstream gradient's, the filters are turned half
    around and lead from results to inputs.
    """
    transform = _FILTERS[:, ::-1] if turned else _FILTERS
    spread = tf.matmul(transform, tf.reshape(filters, [_SIDE**2, -1]))
    spread = tf.reshape(spread, [_TILE**2, *filters.shape[2:]])
    products = tf.matmul(tiles, spread, transpose_b=turned)
    channels = products.shape[-1]
    results = tf.reshape(tf.matmul(_RESULTS, tf.reshape(products, [_TILE**2, -1])), [-1, channels])
    # The results lie square by square, the first pixel of all tiles, then the second.
    columns = -(-width // _STEP)
    tiles_a_picture = -(-height // _STEP) * columns
    count = tf.shape(tiles)[1]
    y, x = np.indices((height, width), np.int32)
    pixel, tile = y % _STEP * _STEP + x % _STEP, y // _STEP * columns + x // _STEP
    pictures = tf.range(count // tiles_a_picture)[:, None, None] * tiles_a_picture
    return tf.gather(results, pixel * count + tile + pictures)


def _filter_gradient(tiles, upstream):
    """The gradient [3, 3, c, d] by the filters, of what `_input_tiles` gave and the gradient by the results."""
    (rows, below), (columns, beside) = _tiling(upstream)
    padded = tf.pad(upstream, [[0, 0], [0, below], [0, beside], [0, 0]])
    results = tf.matmul(_RESULTS, _squares(padded, rows, columns, _STEP), transpose_a=True)
    results = tf.reshape(results, [_TILE**2, -1, upstream.shape[-1]])
    products = tf.reshape(tf.matmul(tiles, results, transpose_a=True), [_TILE**2, -1])
    gradient = tf.matmul(_FILTERS, products, transpose_a=True)
    return tf.reshape(gradient, [_SIDE, _SIDE, tiles.shape[-1], upstream.shape[-1]])


def _tiling(images):
    """((rows, missing pixels below), (columns, missing pixels beside)) of tiles that cover images [n, h, w, c]."""
    return [(-(-side // _STEP), -side % _STEP) for side in images.shape[1:3]]


def _squares(images, rows: int, columns: int, side: int):
    """Squares of pixels, _STEP apart: [n, h, w, c] -> [side * side, n * rows * columns * c], pixel by pixel."""
    height, width, channels = images.shape[1:]
    places = np.arange(height * width, dtype=np.int32).reshape(height, width)
    down, along = slice(0, rows * _STEP, _STEP), slice(0, columns * _STEP, _STEP)
    corners = [places[y:, x:][down, along] for y, x in np.ndindex(side, side)]
    pictures = tf.range(tf.shape(images)[0])[:, None] * (height * width)
    # One gather of pixels, each a run of channels, takes all cores; TensorFlow's strided slices take one.
    squares = tf.gather(tf.reshape(images, [-1, channels]), np.reshape(corners, (side**2, 1, -1)) + pictures)
    return tf.reshape(squares, [side**2, -1])
