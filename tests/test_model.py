"""The training step: its loss, its gradient and its replicas."""

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import losses, views
from mcl_tf.config import Config
from mcl_tf.data.batches import training_batches
from mcl_tf.replicas import Replicas
from mcl_tf.training.trainer import build_model, resolve_loss

CONFIG = Config().replace(encoder="small", width=0.25, projection_hidden=16, projection_dim=8)


def pictures(rng, count=16, size=16):
    return rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def train(config, replicas, images, labels, steps, batch_size):
    """Trains on one or two logical CPUs (one process takes strategies of one size only), one step an epoch.

    Gives the model and the history of its logs.
    """
    devices = [f"/cpu:{i}" for i in range(replicas)]
    strategy = tf.distribute.MirroredStrategy(devices) if replicas > 1 else tf.distribute.get_strategy()
    with strategy.scope():
        model = build_model(config, images.shape[1])
        model.compile(optimizer=tf.keras.optimizers.SGD(0.0375, momentum=0.9, nesterov=True), jit_compile=False)
    history = model.fit(
        training_batches(images, labels, batch_size, seed=0),
        epochs=steps,
        steps_per_epoch=1,
        verbose=0,
        shuffle=False,
    )
    return model, history.history


def test_the_reported_loss_is_that_of_the_public_functions(rng):
    model = build_model(CONFIG.replace(spa_weight=0.5, labelled=True), 16)
    images, labels = pictures(rng, 6), tf.constant([0, 0, 1, 1, 1, 2])
    rotations, labels = views.instances(labels)
    replicas = Replicas.current()
    inputs = model.augment(views.to_float(images), rotations, 3, replicas)
    projections = model(inputs, training=True)
    loss, parts = model.contrastive_loss(projections, labels, rotations, 3, replicas)

    mask = {"alpha": 0.05, "beta": 2.0, "temperature": 0.2}  # the labelled defaults
    pairs = tf.reshape(projections, [2, 24, 8])
    partners = losses.sample_partners(labels, rotations, tf.constant([CONFIG.data.seed + 1, 3], tf.int64))
    ccm = losses.ccm_loss(pairs, labels, rotations, **mask)
    spa = losses.spa_loss(pairs, labels, rotations, partners, **mask)
    np.testing.assert_allclose(parts["ccm"], ccm, rtol=1e-6)
    np.testing.assert_allclose(parts["spa"], spa, rtol=1e-6)
    np.testing.assert_allclose(loss, ccm + 0.5 * spa, rtol=1e-6)


@pytest.mark.slow
def test_two_replicas_end_with_the_weights_of_one_device(rng):
    """Augmentation, partners and batch statistics are those of the global batch."""
    images, labels = pictures(rng, 16), np.arange(16) % 3
    config = CONFIG.replace(labelled=True)
    one, one_logs = train(config, 1, images, labels, steps=3, batch_size=8)
    many, many_logs = train(config, 2, images, labels, steps=3, batch_size=8)
    for name in one_logs:
        np.testing.assert_allclose(many_logs[name], one_logs[name], rtol=1e-5, atol=1e-6, err_msg=name)
    for a, b in zip(one.get_weights(), many.get_weights(), strict=True):
        # Sums over replicas are taken in another order: float32 rounding, and near zero no less than 2e-5, a
        # thousandth of what three steps move a weight.
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=2e-5)


@pytest.mark.slow
def test_replicas_see_the_whole_batch_as_negatives(rng):
    """Without the other replica's projections the loss of two replicas would be smaller by about log 2."""
    images = pictures(rng, 8)
    labels = np.zeros(8, np.int32)
    _, one = train(CONFIG, 1, images, labels, steps=1, batch_size=8)
    _, two = train(CONFIG, 2, images, labels, steps=1, batch_size=8)
    _, half = train(CONFIG, 1, images[:4], labels[:4], steps=1, batch_size=4)
    assert abs(one["ccm"][0] - half["ccm"][0]) > 0.1
    np.testing.assert_allclose(two["ccm"], one["ccm"], rtol=1e-5)


def test_the_same_seed_trains_the_same_weights(rng):
    images, labels = pictures(rng, 8), np.zeros(8, np.int32)
    first, second, other = (
        train(CONFIG.replace(seed=seed), 1, images, labels, steps=2, batch_size=4)[0] for seed in (1, 1, 2)
    )
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(np.any(a != b) for a, b in zip(first.get_weights(), other.get_weights(), strict=True))


def test_training_lowers_the_loss(rng):
    images, labels = pictures(rng, 8), np.zeros(8, np.int32)
    config = CONFIG.replace(crop_min_area=1.0, jitter_probability=0.0, grey_probability=0.0)
    _, logs = train(config, 1, images, labels, steps=20, batch_size=8)
    assert np.mean(logs["loss"][-5:]) < np.mean(logs["loss"][:5]) - 0.1


def test_weight_decay_is_added_to_the_gradient(rng):
    """One plain step: w1 - w1' = learning rate * decay * w0 for a step without and with decay."""
    images, labels = tf.constant(pictures(rng, 4)), tf.zeros(4, tf.int32)
    ends = []
    for decay in (0.0, 0.5):
        model = build_model(CONFIG.replace(weight_decay=decay), 16)
        start = model.get_weights()
        model.compile(optimizer=tf.keras.optimizers.SGD(0.1), jit_compile=False)
        model.train_on_batch(images, labels)
        ends.append([w.numpy() for w in model.trainable_variables])
        names = [w.path if hasattr(w, "path") else w.name for w in model.trainable_variables]
    fresh = build_model(CONFIG, 16)
    assert len(start) == len(fresh.get_weights())
    for plain, decayed, initial, name in zip(*ends, fresh.trainable_variables, names, strict=True):
        np.testing.assert_allclose(plain - decayed, 0.1 * 0.5 * initial.numpy(), atol=2e-6, err_msg=name)


def one_step(rng, **options):
    """The weights before and after one plain step at learning rate 1, and the model."""
    model = build_model(CONFIG.replace(weight_decay=0.0).replace(**options), 16)
    model.compile(optimizer=tf.keras.optimizers.SGD(1.0), jit_compile=False)
    before = [w.numpy() for w in model.trainable_variables]
    model.optimize((tf.constant(pictures(rng, 4)), tf.zeros(4, tf.int32)))
    return model, before, [w.numpy() for w in model.trainable_variables]


def test_weight_decay_can_leave_biases_and_normalisation_out():
    decayed = {}
    for exclude in (False, True):
        _, before, plain = one_step(np.random.default_rng(0))
        model, _, after = one_step(np.random.default_rng(0), weight_decay=0.5, decay_exclusions=exclude)
        for place, (a, b) in enumerate(zip(plain, after, strict=True)):
            factor = 0.5 if a.ndim > 1 or not exclude else 0.0
            np.testing.assert_allclose(a - b, factor * before[place], atol=2e-5)
        decayed[exclude] = model
    assert any(len(w.shape) == 1 and np.any(w.numpy()) for w in decayed[True].trainable_variables)


@pytest.mark.parametrize("clip_norm", [0.25, 1e6])
def test_gradients_are_clipped_by_their_global_norm(clip_norm):
    _, before, plain = one_step(np.random.default_rng(0))
    _, _, after = one_step(np.random.default_rng(0), clip_norm=clip_norm)
    gradient = np.concatenate([(a - b).ravel() for a, b in zip(before, plain, strict=True)])
    clipped = np.concatenate([(a - b).ravel() for a, b in zip(before, after, strict=True)])
    norm = np.linalg.norm(gradient)
    assert norm > 0.5
    # Differences of weights of about 1: rounding of 6e-8 each.
    np.testing.assert_allclose(clipped, gradient * min(1.0, clip_norm / norm), atol=1e-6)


def test_averages_follow_their_definition_and_can_take_the_place_of_the_weights(rng):
    model = build_model(CONFIG.replace(ema=0.25), 16)
    model.compile(optimizer=tf.keras.optimizers.SGD(0.1), jit_compile=False)
    expected = [w.numpy() for w in model.averages.weights]
    for step in range(4):
        model.optimize((tf.constant(pictures(rng, 4)), tf.zeros(4, tf.int32)))
        decay = min(0.25, (1 + step) / (10 + step))  # 0.1, 0.18, 0.25, 0.25
        expected = [
            decay * e + (1 - decay) * w.numpy() for e, w in zip(expected, model.averages.weights, strict=True)
        ]
    trained = [w.numpy() for w in model.averages.weights]
    assert len(trained) == len(model.encoder.weights) + len(model.projection_head.weights)
    with model.averages.in_place():
        for e, w in zip(expected, model.averages.weights, strict=True):
            np.testing.assert_allclose(w.numpy(), e, rtol=1e-5, atol=1e-6)
    for before, w in zip(trained, model.averages.weights, strict=True):
        np.testing.assert_array_equal(w.numpy(), before)


@pytest.mark.parametrize(("labels", "share"), [([0, 0, 0, 0], 0.0), ([0, 0, 1, 2], 0.5), ([0, 1, 2, 3], 1.0)])
def test_the_share_of_anchors_without_a_partner(labels, share, rng):
    model = build_model(CONFIG, 16)
    model.compile(optimizer=tf.keras.optimizers.SGD(0.0), jit_compile=False)
    parts = model.optimize((tf.constant(pictures(rng, 4)), tf.constant(labels)))
    assert float(parts["without_partner"]) == share


@pytest.mark.parametrize(
    ("overrides", "beta"),
    [({}, 5.0), ({"temperature": 0.5}, 2.0), ({"labelled": True}, 2.0), ({"beta": 3.0, "labelled": True}, 3.0)],
)
def test_beta_follows_from_the_protocol_unless_given(overrides, beta):
    assert resolve_loss(Config().replace(**overrides)).beta == pytest.approx(beta)
