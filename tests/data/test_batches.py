"""The order of training pictures: permutations that follow from seed and step."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf.data.batches import training_batches


def stream(count, batch_size, seed=1, first_step=0, steps=1):
    """The places of the pictures in `steps` batches, [steps, batch_size]; picture i is known by its pixel."""
    places = np.arange(count)
    pictures = np.stack([places % 256, places // 256, 0 * places], axis=-1).astype(np.uint8)[:, None, None]
    batches = training_batches(pictures, places.astype(np.int64), batch_size, seed, first_step)
    found = []
    for x, y in itertools.islice(batches.as_numpy_iterator(), steps):
        np.testing.assert_array_equal(x[:, 0, 0].astype(int) @ [1, 256, 0], y)  # labels stay with their pictures
        found.append(y)
    return np.array(found)


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize(
    ("count", "batch_size"), [(1, 1), (2, 1), (5, 5), (12, 4), (17, 4), (100, 7), (1000, 250)]
)
def test_an_epoch_shows_every_picture_at_most_once(count, batch_size, seed):
    steps = count // batch_size
    epochs = stream(count, batch_size, seed, steps=3 * steps).reshape(3, steps * batch_size)
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch)
        assert set(epoch) <= set(range(count))
        if count % batch_size == 0:
            assert sorted(epoch) == list(range(count))


def test_pictures_left_out_change_from_epoch_to_epoch():
    # 20 pictures in batches of 8: four are left out of an epoch. With chance, 20 epochs leave a given one out of
    # all or none only once in millions.
    epochs = stream(20, 8, steps=40).reshape(20, 16)
    shown = np.array([[place in epoch for place in range(20)] for epoch in epochs]).sum(axis=0)
    assert shown.min() > 0
    assert (shown < 20).sum() > 15


def test_order_changes_with_epoch_and_seed():
    first, second = stream(100, 50, seed=3, steps=4).reshape(2, 100)
    other = stream(100, 50, seed=4, steps=2).reshape(100)
    for a, b in ((first, second), (first, other), (first, np.arange(100))):
        assert (a == b).mean() < 0.1  # by chance one in a hundred


def test_order_follows_from_the_seed():
    np.testing.assert_array_equal(stream(60, 20, seed=2**31 - 1, steps=6), stream(60, 20, seed=2**31 - 1, steps=6))


@pytest.mark.parametrize("first_step", [1, 4, 5, 11])
def test_a_stream_can_begin_anywhere(first_step):
    # 23 pictures in batches of 5 make epochs of 4 steps, so that these begin within and between epochs.
    whole = stream(23, 5, steps=16)
    np.testing.assert_array_equal(stream(23, 5, first_step=first_step, steps=16 - first_step), whole[first_step:])


def test_the_stream_does_not_end():
    assert stream(3, 2, first_step=10**9, steps=3).shape == (3, 2)


def test_batches_have_static_shapes():
    batches = training_batches(np.zeros((10, 6, 6, 3), np.uint8), np.zeros(10, np.int64), 4, seed=0)
    assert batches.element_spec == (tf.TensorSpec([4, 6, 6, 3], tf.uint8), tf.TensorSpec([4], tf.int32))


def overlap(count, seed, share=0.1):
    """The part of the pictures of an epoch's first tenth that come in the next epoch's first tenth too."""
    size = int(count * share)
    steps = count // size
    first, second = (stream(count, size, seed, first_step=step)[0] for step in (0, steps))
    return len(np.intersect1d(first, second)) / size


@pytest.mark.parametrize(("count", "seed"), [(45000, 0), (45000, 42)])
def test_batches_of_following_epochs_are_independent(count, seed):
    # A tenth of the pictures should find a tenth of themselves again: 0.1, give or take 0.004 (hypergeometric).
    assert abs(overlap(count, seed) - 0.1) < 0.03


@pytest.mark.parametrize("count", [8, 162])
def test_seed_zero_shuffles_few_pictures(count):
    # By chance one picture a permutation keeps its place; 30 epochs have 30, give or take 5.5.
    epochs = stream(count, count, seed=0, steps=30)
    assert (epochs == np.arange(count)).sum() < 60
    assert (epochs[1:] == epochs[:-1]).sum() < 60


def test_far_epochs_and_seeds_have_orders_of_their_own():
    first = stream(50, 50, seed=1)
    assert not np.array_equal(stream(50, 50, seed=1, first_step=256), first)
    assert not np.array_equal(stream(50, 50, seed=257), first)


# Balanced batches, and the pieces of replicas


def balanced(labels, batch_size, seed=1, first_step=0, steps=1):
    """The places of the pictures in `steps` balanced batches, [steps, batch_size]."""
    pictures = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] + np.zeros((1, 1, 1, 3), np.uint8)
    batches = training_batches(pictures, labels, batch_size, seed, first_step, balanced=True)
    found = []
    for x, y in itertools.islice(batches.as_numpy_iterator(), steps):
        np.testing.assert_array_equal(y, labels[x[:, 0, 0, 0]])
        found.append(x[:, 0, 0, 0])
    return np.array(found)


@pytest.mark.parametrize(("sizes", "batch_size"), [((30, 5, 12), 9), ((30, 5, 12), 7), ((40, 3), 8), ((20,), 6)])
def test_balanced_batches_hold_every_class_equally_often(sizes, batch_size):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    batches = balanced(labels, batch_size, steps=30)
    counts = np.array([np.bincount(labels[batch], minlength=len(sizes)) for batch in batches])
    assert counts.min() >= batch_size // len(sizes)
    assert counts.max() <= -(-batch_size // len(sizes))
    for label, size in enumerate(sizes):
        # A class is gone through picture by picture before one comes back.
        seen = [place for place in batches.ravel() if labels[place] == label]
        for start in range(0, len(seen) - size + 1, size):
            assert len(set(seen[start : start + size])) == size


def test_balanced_batches_follow_from_seed_and_step():
    labels = np.arange(40) % 3
    whole = balanced(labels, 8, steps=12)
    np.testing.assert_array_equal(balanced(labels, 8, first_step=5, steps=7), whole[5:])
    assert not np.array_equal(balanced(labels, 8, seed=2, steps=12), whole)


@pytest.mark.parametrize("is_balanced", [False, True])
@pytest.mark.parametrize("counts", [(1, 1, 1, 1), (2, 2), (4,), (1, 3)])
def test_pieces_of_replicas_join_to_the_batches(counts, is_balanced):
    labels = np.arange(37) % 5
    pictures = np.arange(37, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 1, 1, 3), np.uint8)

    def places(replicas, pieces):
        found = training_batches(pictures, labels, 8, 3, 2, balanced=is_balanced, replicas=replicas)
        return [x[:, 0, 0, 0] for x, _ in itertools.islice(found.as_numpy_iterator(), pieces)]

    whole = np.array(places((0, 1, 1), 6))
    workers, first = [], 0
    for count in counts:
        workers.append(np.reshape(places((first, count, 4), 6 * count), [6, -1]))
        first += count
    np.testing.assert_array_equal(np.concatenate(workers, axis=1), whole)
