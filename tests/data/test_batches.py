"""Batches of training images: permutations that follow from seed and step, balanced classes, parts of replicas."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf.data import store
from mcl_tf.data.batches import training_batches


def read_indices(count, batch_size, seed=1, first_step=0, steps=1):
    """Return the indices of the images in `steps` batches, [steps, batch_size]; pixels identify an image."""
    indices = np.arange(count)
    images = np.stack([indices % 256, indices // 256, 0 * indices], axis=-1).astype(np.uint8)[:, None, None]
    batches = training_batches(images, indices.astype(np.int64), batch_size, seed, first_step)
    found = []
    for x, y in itertools.islice(batches.as_numpy_iterator(), steps):
        np.testing.assert_array_equal(x[:, 0, 0].astype(int) @ [1, 256, 0], y)  # labels stay with their images
        found.append(y)
    return np.array(found)


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (2, 1), (5, 5), (12, 4), (17, 4), (100, 7), (1000, 250)])
def test_shows_every_image_at_most_once_per_epoch(count, batch_size, seed):
    steps = count // batch_size
    epochs = read_indices(count, batch_size, seed, steps=3 * steps).reshape(3, steps * batch_size)
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch)
        assert set(epoch) <= set(range(count))
        if count % batch_size == 0:
            assert sorted(epoch) == list(range(count))


def test_leaves_out_other_images_in_every_epoch():
    # Of 20 images in batches of 8, every epoch leaves out four. By chance, 20 epochs leave out a given image always or
    # never only once in millions.
    epochs = read_indices(20, 8, steps=40).reshape(20, 16)
    shown = np.array([[index in epoch for index in range(20)] for epoch in epochs]).sum(axis=0)
    assert shown.min() > 0
    assert (shown < 20).sum() > 15


def test_changes_the_order_with_epoch_and_seed():
    first, second = read_indices(100, 50, seed=3, steps=4).reshape(2, 100)
    other = read_indices(100, 50, seed=4, steps=2).reshape(100)
    for a, b in ((first, second), (first, other), (first, np.arange(100))):
        assert (a == b).mean() < 0.1  # by chance one in a hundred


def test_repeats_the_order_for_the_same_seed():
    first, second = (read_indices(60, 20, seed=2**31 - 1, steps=6) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("first_step", [1, 4, 5, 11])
def test_starts_at_any_step(first_step):
    # 23 images in batches of 5 make epochs of 4 steps, so that these steps lie within and between epochs.
    expected = read_indices(23, 5, steps=16)[first_step:]
    np.testing.assert_array_equal(read_indices(23, 5, first_step=first_step, steps=16 - first_step), expected)


def test_never_ends():
    assert read_indices(3, 2, first_step=10**9, steps=3).shape == (3, 2)


def test_has_static_shapes():
    batches = training_batches(np.zeros((10, 6, 6, 3), np.uint8), np.zeros(10, np.int64), 4, seed=0)
    assert batches.element_spec == (tf.TensorSpec([4, 6, 6, 3], tf.uint8), tf.TensorSpec([4], tf.int32))


@pytest.mark.parametrize(("count", "seed"), [(45000, 0), (45000, 42)])
def test_consecutive_epochs_are_independent(count, seed):
    # Of the images in an epoch's first tenth, a tenth should lie in the next epoch's first tenth, too: 0.1, give or
    # take 0.004 (hypergeometric).
    size = count // 10
    first, second = (read_indices(count, size, seed, first_step=step)[0] for step in (0, count // size))
    assert abs(len(np.intersect1d(first, second)) / size - 0.1) < 0.03


@pytest.mark.parametrize("count", [8, 162])
def test_shuffles_few_images_with_seed_zero(count):
    # By chance, one image per permutation keeps its position: of 30 epochs 30 images, give or take 5.5.
    epochs = read_indices(count, count, seed=0, steps=30)
    assert (epochs == np.arange(count)).sum() < 60
    assert (epochs[1:] == epochs[:-1]).sum() < 60


@pytest.mark.parametrize("change", [{"first_step": 256}, {"seed": 257}])
def test_distant_epochs_and_seeds_have_their_own_order(change):
    expected = read_indices(50, 50, seed=1)
    assert not np.array_equal(read_indices(50, 50, **{"seed": 1, **change}), expected)


# Balanced batches, and the parts of replicas


def numbered_images(count):
    """Images whose pixels are their indices: uint8 [count, 1, 1, 3]."""
    return np.arange(count, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 1, 1, 3), np.uint8)


def read_balanced_indices(labels, batch_size, seed=1, first_step=0, steps=1):
    """Return the indices of the images in `steps` balanced batches, [steps, batch_size]."""
    batches = training_batches(numbered_images(len(labels)), labels, batch_size, seed, first_step, balanced=True)
    found = []
    for x, y in itertools.islice(batches.as_numpy_iterator(), steps):
        np.testing.assert_array_equal(y, labels[x[:, 0, 0, 0]])
        found.append(x[:, 0, 0, 0])
    return np.array(found)


@pytest.mark.parametrize(("sizes", "batch_size"), [((30, 5, 12), 9), ((30, 5, 12), 7), ((40, 3), 8), ((20,), 6)])
def test_balanced_batches_hold_every_class_equally_often(sizes, batch_size):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    batches = read_balanced_indices(labels, batch_size, steps=30)
    counts = np.array([np.bincount(labels[batch], minlength=len(sizes)) for batch in batches])
    assert counts.min() >= batch_size // len(sizes)
    assert counts.max() <= -(-batch_size // len(sizes))
    for label, size in enumerate(sizes):
        # All images of a class are shown before one of them is repeated.
        shown = [index for index in batches.ravel() if labels[index] == label]
        for start in range(0, len(shown) - size + 1, size):
            assert len(set(shown[start : start + size])) == size


def test_balanced_batches_follow_from_seed_and_step():
    labels = np.arange(40) % 3
    expected = read_balanced_indices(labels, 8, steps=12)
    np.testing.assert_array_equal(read_balanced_indices(labels, 8, first_step=5, steps=7), expected[5:])
    assert not np.array_equal(read_balanced_indices(labels, 8, seed=2, steps=12), expected)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("counts", [(1, 1, 1, 1), (2, 2), (4,), (1, 3)])
def test_parts_of_replicas_join_to_the_batches(counts, balanced):
    labels = np.arange(37) % 5

    def read_parts(replicas, parts):
        batches = training_batches(numbered_images(37), labels, 8, 3, 2, balanced=balanced, replicas=replicas)
        return [x[:, 0, 0, 0] for x, _ in itertools.islice(batches.as_numpy_iterator(), parts)]

    expected = np.array(read_parts((0, 1, 1), 6))
    workers, first = [], 0
    for count in counts:
        workers.append(np.reshape(read_parts((first, count, 4), 6 * count), [6, -1]))
        first += count
    np.testing.assert_array_equal(np.concatenate(workers, axis=1), expected)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("replicas", [(0, 1, 1), (2, 2, 4)])
def test_batches_from_a_file_are_those_from_memory(replicas, balanced, tmp_path):
    images, chosen = numbered_images(40), np.arange(40) % 4 != 1  # as after some are held out
    labels = np.arange(chosen.sum()) % 3
    stored = store.obtain_unnamed(tmp_path, [images]).select(chosen)

    def read(images):
        batches = training_batches(images, labels, 8, 3, 2, balanced=balanced, replicas=replicas)
        return list(itertools.islice(batches.as_numpy_iterator(), 7)), batches.element_spec

    (expected, spec), (found, found_spec) = read(images[chosen]), read(stored)
    assert found_spec == spec
    for (x, y), (expected_x, expected_y) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x, expected_x)
        np.testing.assert_array_equal(y, expected_y)
