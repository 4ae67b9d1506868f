"""The Keras model: its training step, its replicas, and Keras' compile, fit, save and load."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import losses, networks, views
from mcl_tf.config import AugmentationConfig, Config, LossConfig
from mcl_tf.data.batches import training_batches
from mcl_tf.model import MaskedContrastiveModel
from mcl_tf.replicas import Replicas
from mcl_tf.scorer import make_scorer
from mcl_tf.training import optimizers
from mcl_tf.training.trainer import Trainer, build_model, resolve_loss

CONFIG = Config().replace(encoder="small", width=0.25, projection_hidden=16, projection_dim=8)


def draw_images(rng, count=16, size=16):
    return rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def train(config, images, labels, steps, batch_size, strategy=None):
    """Train in epochs of one step; return the model and the history of its logs."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = build_model(config, images.shape[1])
        model.compile(optimizer=tf.keras.optimizers.SGD(0.0375, momentum=0.9, nesterov=True), jit_compile=False)
    batches = training_batches(images, labels, batch_size, seed=0)
    history = model.fit(batches, epochs=steps, steps_per_epoch=1, verbose=0, shuffle=False)
    return model, history.history


def weights_of(model):
    """Return the weights of all networks; in Keras 2, `model.get_weights()` also contains the metrics."""
    heads = [model.projection_head] + [model.rotation_head] * (model.rotation_head is not None)
    return [weight for network in (model.encoder, *heads) for weight in network.get_weights()]


# The training step.


def test_the_loss_matches_the_public_functions(rng):
    model = build_model(CONFIG.replace(spa_weight=0.5, labelled=True), 16)
    images, labels = draw_images(rng, 6), tf.constant([0, 0, 1, 1, 1, 2])
    rotations, labels = views.instances(labels)
    replicas = Replicas.current()
    inputs = model.augment(views.to_float(images), rotations, 3, replicas)
    projections = model(inputs, training=True)
    loss, parts = model.contrastive_loss(projections, labels, rotations, 3, replicas)

    mask = {"alpha": 0.05, "beta": 2.0, "temperature": 0.2}  # the defaults with labels
    pairs = tf.reshape(projections, [2, 24, 8])
    partners = losses.sample_partners(labels, rotations, tf.constant([CONFIG.data.seed + 1, 3], tf.int64))
    ccm = losses.ccm_loss(pairs, labels, rotations, **mask)
    spa = losses.spa_loss(pairs, labels, rotations, partners, **mask)
    np.testing.assert_allclose(parts["ccm"], ccm, rtol=1e-6)
    np.testing.assert_allclose(parts["spa"], spa, rtol=1e-6)
    np.testing.assert_allclose(loss, ccm + 0.5 * spa, rtol=1e-6)


def test_without_rotations_every_image_is_one_upright_instance(rng, monkeypatch):
    model = build_model(CONFIG.replace(rotations=False), 16)
    assert model.rotation_head is None
    model.compile(optimizer=tf.keras.optimizers.SGD(0.1), jit_compile=False)
    seen, augment = [], model.augment
    monkeypatch.setattr(
        model, "augment", lambda images, turns, *rest: seen.append(turns) or augment(images, turns, *rest)
    )
    metrics = model.optimize(draw_images(rng, 6), tf.zeros(6, tf.int32))
    np.testing.assert_array_equal(seen, [[0] * 6])
    assert (metrics["rotation"], metrics["without_partner"]) == (0.0, 0.0)  # all six share class and rotation
    scorer = make_scorer(model, CONFIG.replace(rotations=False), 1)
    assert (scorer.evidence, scorer.view_count, scorer.means.shape[0]) == (False, 8, 4)
    assert make_scorer(model, CONFIG.replace(rotations=False), 2).by_likelihood


def make_problem():
    return draw_images(np.random.default_rng(0), 16), np.arange(16) % 3


@pytest.fixture(scope="module")
def replica_trainings(two_replicas):
    """Trainings of three steps on one device and on two replicas: (configuration, one, two), (model, logs) each."""
    config = CONFIG.replace(labelled=True, precision="float64")
    trainings = (train(config, *make_problem(), 3, 8, strategy) for strategy in (None, two_replicas))
    return config, *trainings


@pytest.mark.slow
def test_two_replicas_give_the_weights_of_one_device(replica_trainings):
    """Augmentation, partners and batch statistics are those of the global batch."""
    _, (one, one_logs), (two, two_logs) = replica_trainings
    for name in one_logs:
        np.testing.assert_allclose(two_logs[name], one_logs[name], rtol=1e-6, err_msg=name)  # logs are float32
    for a, b in zip(weights_of(one), weights_of(two), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_replicas_use_the_whole_batch_as_negatives(replica_trainings):
    """Without the projections of the other replica, the loss of two replicas would be smaller by about log 2."""
    config, _, (_, two_logs) = replica_trainings
    images, labels = make_problem()
    whole, half = (first_step(config, images, labels, batch_size=size)["ccm"].numpy() for size in (8, 4))
    assert abs(whole - half) > 0.1
    np.testing.assert_allclose(two_logs["ccm"][0], whole, rtol=1e-5)


def first_step(config, images, labels, batch_size):
    """Return the metrics of the first step, without a graph, which takes seconds to build."""
    model = build_model(config, images.shape[1])
    model.compile(optimizer=tf.keras.optimizers.SGD(0.0375), jit_compile=False)
    return model.optimize(*next(iter(training_batches(images, labels, batch_size, seed=0))))


def test_the_same_seed_gives_the_same_weights(rng):
    images, labels = draw_images(rng, 8), np.zeros(8, np.int32)

    def weights_after_two_steps(seed):
        model = build_model(CONFIG.replace(seed=seed), 16)
        model.compile(optimizer=tf.keras.optimizers.SGD(0.0375, momentum=0.9, nesterov=True), jit_compile=False)
        for batch in training_batches(images, labels, 4, seed=0).take(2):
            model.optimize(*batch)
        return weights_of(model)

    first, second, other = (weights_after_two_steps(seed) for seed in (1, 1, 2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(np.any(a != b) for a, b in zip(first, other, strict=True))


def test_training_lowers_the_loss(rng):
    images, labels = draw_images(rng, 8), np.zeros(8, np.int32)
    config = CONFIG.replace(crop_min_area=1.0, jitter_probability=0.0, grey_probability=0.0)
    _, logs = train(config, images, labels, steps=20, batch_size=8)
    assert np.mean(logs["loss"][-5:]) < np.mean(logs["loss"][:5]) - 0.1


def test_weight_decay_is_added_to_the_gradient(rng):
    """After a plain step without and with decay, the weights differ by learning rate * decay * initial weight."""
    images, labels = tf.constant(draw_images(rng, 4)), tf.zeros(4, tf.int32)
    ends = []
    for decay in (0.0, 0.5):
        model = build_model(CONFIG.replace(weight_decay=decay), 16)
        start = weights_of(model)
        model.compile(optimizer=tf.keras.optimizers.SGD(0.1), jit_compile=False)
        model.train_on_batch(images, labels)
        ends.append([w.numpy() for w in model.trainable_variables])
        names = [w.path if hasattr(w, "path") else w.name for w in model.trainable_variables]
    fresh = build_model(CONFIG, 16)
    assert len(start) == len(weights_of(fresh))
    for plain, decayed, initial, name in zip(*ends, fresh.trainable_variables, names, strict=True):
        np.testing.assert_allclose(plain - decayed, 0.1 * 0.5 * initial.numpy(), atol=2e-6, err_msg=name)


def one_step(rng, **options):
    """Take one plain step with learning rate 1; return the model and its weights before and after."""
    model = build_model(CONFIG.replace(weight_decay=0.0).replace(**options), 16)
    model.compile(optimizer=tf.keras.optimizers.SGD(1.0), jit_compile=False)
    before = [w.numpy() for w in model.trainable_variables]
    model.optimize(tf.constant(draw_images(rng, 4)), tf.zeros(4, tf.int32))
    return model, before, [w.numpy() for w in model.trainable_variables]


def test_decay_exclusions_exclude_biases_and_normalization():
    decayed = {}
    for exclude in (False, True):
        _, before, plain = one_step(np.random.default_rng(0))
        model, _, after = one_step(np.random.default_rng(0), weight_decay=0.5, decay_exclusions=exclude)
        for start, a, b in zip(before, plain, after, strict=True):
            factor = 0.5 if a.ndim > 1 or not exclude else 0.0
            np.testing.assert_allclose(a - b, factor * start, atol=2e-5)
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
    # Differences of weights of about 1, each rounded to 6e-8.
    np.testing.assert_allclose(clipped, gradient * min(1.0, clip_norm / norm), atol=1e-6)


def test_moving_averages_match_their_definition_and_can_be_swapped_in(rng):
    model = build_model(CONFIG.replace(ema=0.25), 16)
    model.compile(optimizer=tf.keras.optimizers.SGD(0.1), jit_compile=False)
    expected = [w.numpy() for w in model.averages.weights]
    for step in range(4):
        model.optimize(tf.constant(draw_images(rng, 4)), tf.zeros(4, tf.int32))
        decay = min(0.25, (1 + step) / (10 + step))  # 0.1, 0.18, 0.25, 0.25
        expected = [decay * e + (1 - decay) * w.numpy() for e, w in zip(expected, model.averages.weights, strict=True)]
    trained = [w.numpy() for w in model.averages.weights]
    assert len(trained) == len(model.encoder.weights) + len(model.projection_head.weights)
    with model.averages.swapped_in():
        for e, w in zip(expected, model.averages.weights, strict=True):
            np.testing.assert_allclose(w.numpy(), e, rtol=1e-5, atol=1e-6)
    for before, w in zip(trained, model.averages.weights, strict=True):
        np.testing.assert_array_equal(w.numpy(), before)


@pytest.mark.parametrize(("labels", "share"), [([0, 0, 0, 0], 0.0), ([0, 0, 1, 2], 0.5), ([0, 1, 2, 3], 1.0)])
def test_the_share_of_anchors_without_partner_is_reported(labels, share, rng):
    model = build_model(CONFIG, 16)
    model.compile(optimizer=tf.keras.optimizers.SGD(0.0), jit_compile=False)
    parts = model.optimize(tf.constant(draw_images(rng, 4)), tf.constant(labels))
    assert float(parts["without_partner"]) == share


@pytest.mark.parametrize(
    ("overrides", "beta"),
    [({}, 5.0), ({"temperature": 0.5}, 2.0), ({"labelled": True}, 2.0), ({"beta": 3.0, "labelled": True}, 3.0)],
)
def test_the_default_beta_depends_on_labels(overrides, beta):
    assert resolve_loss(Config().replace(**overrides)).beta == pytest.approx(beta)


# The rotation classifier.


def one_batch(model, images):
    """Return the metrics of a step whose learning rate is 0, as numbers."""
    model.compile(optimizer=tf.keras.optimizers.SGD(0.0), jit_compile=False)
    metrics = model.optimize(tf.constant(images), tf.zeros(len(images), tf.int32))
    return {name: float(value) for name, value in metrics.items()}


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_the_rotation_loss_is_added_with_its_weight(weight, precision, rng):
    model = build_model(CONFIG.replace(rotation_weight=weight, spa_weight=0.5, precision=precision), 16)
    found = one_batch(model, draw_images(rng, 4))
    # The classifier starts at 0: all four rotations are equally likely.
    assert found["rotation"] == pytest.approx(np.log(4.0))
    assert found["loss"] == pytest.approx(found["ccm"] + 0.5 * found["spa"] + weight * np.log(4.0), rel=1e-6)


def test_without_its_weight_there_is_no_classifier_and_the_loss_is_that_of_the_paper(rng):
    images = draw_images(rng, 4)
    model = build_model(CONFIG.replace(rotation_weight=0.0), 16)
    assert model.rotation_head is None
    found, full = one_batch(model, images), one_batch(build_model(CONFIG, 16), images)
    assert found["rotation"] == 0.0
    assert found["loss"] == pytest.approx(found["ccm"] + found["spa"], rel=1e-6)
    for name in ("ccm", "spa", "positive_similarity", "negative_similarity"):
        assert full[name] == found[name]  # the same augmentation, encoder and projection


def test_the_rotation_loss_is_the_cross_entropy_of_all_views(rng):
    model = build_model(CONFIG, 16)
    kernel, bias = model.rotation_head.weights
    kernel.assign(rng.normal(size=kernel.shape))
    bias.assign(rng.normal(size=bias.shape))
    embeddings, rotations = rng.normal(size=(12, 16)), np.array([0, 1, 2, 3, 3, 0])
    found = model.rotation_loss(tf.constant(embeddings, tf.float32), tf.constant(rotations), Replicas.current())
    logits = embeddings @ kernel.numpy() + bias.numpy()
    # First the first views of all instances, then the second ones.
    chosen = logits[np.arange(12), np.tile(rotations, 2)]
    expected = np.mean(np.log(np.exp(logits).sum(1)) - chosen)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_rotation_classifier_learns_and_teaches_the_encoder():
    """Of images whose upper half is bright, rotations are easy to tell."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 100, (16, 16, 16, 3), dtype=np.uint8)
    images[:, :8] += 150
    still = {"crop_min_area": 1.0, "jitter_probability": 0.0, "grey_probability": 0.0, "spa_weight": 0.0}
    model, logs = train(CONFIG.replace(**still), images, np.zeros(16, np.int32), steps=25, batch_size=16)
    assert logs["rotation"][0] == pytest.approx(np.log(4.0))
    assert np.mean(logs["rotation"][-3:]) < 0.5 * np.log(4.0)
    assert np.abs(model.rotation_head.get_weights()[0]).max() > 0.01


def test_the_gradient_of_the_rotation_loss_reaches_the_encoder():
    with_head, before, after = one_step(np.random.default_rng(0), rotation_weight=1.0)
    _, _, without = one_step(np.random.default_rng(0), rotation_weight=0.0)
    assert len(before) == len(without) + 2  # kernel and bias
    # The classifier of zeros passes no gradient on in the first step, but takes one itself.
    for a, b in zip(after, without, strict=False):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert np.abs(with_head.rotation_head.get_weights()[0]).max() > 0.0
    images = tf.constant(draw_images(np.random.default_rng(1), 4))
    moved = [w.numpy() for w in with_head.encoder.trainable_variables]
    with_head.rotation_head.set_weights([10.0 * w for w in with_head.rotation_head.get_weights()])
    copy = build_model(CONFIG.replace(weight_decay=0.0, rotation_weight=0.0), 16)
    copy.compile(optimizer=tf.keras.optimizers.SGD(1.0), jit_compile=False)
    copy.encoder.set_weights(with_head.encoder.get_weights())
    copy.projection_head.set_weights(with_head.projection_head.get_weights())
    copy.optimizer.iterations.assign(1)  # the augmentation follows from the step
    for model in (with_head, copy):
        model.optimize(images, tf.zeros(4, tf.int32))
    changes = [
        np.abs(a.numpy() - b.numpy()).max() > 1e-5
        for a, b in zip(with_head.encoder.trainable_variables, copy.encoder.trainable_variables, strict=True)
    ]
    assert len(changes) == len(moved)
    assert all(changes)


# Keras: compile, fit, save and load.

OPTIONS = {
    "loss_config": LossConfig(alpha=0.1, beta=3.0, temperature=0.25, spa_weight=0.5, rotation_weight=0.75),
    "augmentation_config": AugmentationConfig(strength=0.25),
    "weight_decay": 1e-3,
    "seed": 5,
    "decay_exclusions": True,
    "clip_norm": 2.0,
    "ema": 0.5,
    "loss_block_size": 6,
}


def keras_encoder():
    """Build an encoder from Keras' layers only."""
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            layers.Input((16, 16, 3)),
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
        ]
    )


ENCODERS = {"own": lambda: networks.build_encoder(CONFIG.model, 16, seed=5), "keras": keras_encoder}


def compiled_model(encoder, **options):
    head = networks.build_projection_head(CONFIG.model, encoder.output_shape[-1])
    model = MaskedContrastiveModel(encoder, head, **options)
    model.compile(optimizer=tf.keras.optimizers.SGD(0.05, momentum=0.9), jit_compile=False)
    return model


def fit(model, images, **options):
    batches = tf.data.Dataset.from_tensor_slices((images, np.zeros(len(images), np.int32))).batch(4)
    return model.fit(batches, shuffle=False, verbose=0, **options).history


@pytest.mark.parametrize(("encoder", "options"), [("own", OPTIONS), ("keras", {})], ids=ENCODERS)
def test_a_loaded_model_is_the_saved_model(encoder, options, rng, tmp_path):
    images = draw_images(rng, 8)
    model = compiled_model(ENCODERS[encoder](), **options)
    fit(model, images, epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")  # no custom objects

    inputs = views.to_float(images)
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
    assert type(loaded) is MaskedContrastiveModel
    for name in OPTIONS:
        assert getattr(loaded, name) == getattr(model, name), name
    # Optimizer, step and averages are restored, too: both train on in the same way.
    histories = [fit(one, images) for one in (model, loaded)]
    assert histories[0] == histories[1]
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations) == 6
    for a, b in zip(weights_of(model), weights_of(loaded), strict=True):
        np.testing.assert_array_equal(b, a)


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_moving_averages_survive_save_and_load(name, rng, tmp_path):
    model = compiled_model(keras_encoder(), ema=0.5)
    fit(model, draw_images(rng, 8), epochs=2)
    averages = [value.numpy() for value in model.averages.values]
    weights = [tf.convert_to_tensor(weight).numpy() for weight in model.averages.weights]
    assert any(np.abs(a - w).max() > 1e-4 for a, w in zip(averages, weights, strict=True))
    if name == "model.keras":
        model.save(tmp_path / name)
        loaded = tf.keras.models.load_model(tmp_path / name)
    else:
        model.save_weights(tmp_path / name)
        loaded = compiled_model(keras_encoder(), ema=0.5)
        loaded.train_on_batch(draw_images(rng, 4), np.zeros(4, np.int32))
        loaded.load_weights(tmp_path / name)
    for a, b in zip(averages, loaded.averages.values, strict=True):
        np.testing.assert_array_equal(b, a)
    for a, b in zip(weights_of(model), weights_of(loaded), strict=True):
        np.testing.assert_array_equal(b, a)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(
    "copy",
    [lambda model: MaskedContrastiveModel.from_config(model.get_config()), tf.keras.models.clone_model],
    ids=["from_config", "clone_model"],
)
def test_a_copy_has_the_same_arguments_and_shapes(copy, encoder):
    model = compiled_model(ENCODERS[encoder](), **OPTIONS)
    found = copy(model)
    assert type(found) is MaskedContrastiveModel
    for name in OPTIONS:
        assert getattr(found, name) == getattr(model, name), name
    assert [w.shape for w in weights_of(found)] == [w.shape for w in weights_of(model)]
    assert found.rotation_head is not None


def test_a_copy_without_rotation_classifier_has_none():
    model = compiled_model(keras_encoder(), loss_config=LossConfig(rotation_weight=0.0))
    assert MaskedContrastiveModel.from_config(model.get_config()).rotation_head is None


def test_the_default_projection_head_is_that_of_the_paper():
    model = MaskedContrastiveModel(keras_encoder())
    assert [tuple(w.shape) for w in model.projection_head.weights] == [(8, 2048), (2048,), (2048, 128), (128,)]


def test_fit_on_arrays_reports_every_metric_and_changes_the_weights(rng):
    model = compiled_model(keras_encoder())
    before = weights_of(model)
    history = model.fit(draw_images(rng, 8), np.arange(8) % 2, batch_size=4, epochs=2, verbose=0).history
    assert set(history) == {metric.name for metric in model.metrics}
    assert all(len(values) == 2 and np.isfinite(values).all() for values in history.values())
    assert any(np.any(a != b) for a, b in zip(before, weights_of(model), strict=True))


def test_compile_with_the_defaults_of_keras_trains(rng):
    """Keras 3 compiles the step with XLA by default."""
    model = MaskedContrastiveModel(keras_encoder(), networks.build_projection_head(CONFIG.model, 8))
    model.compile(optimizer=tf.keras.optimizers.SGD(0.05))
    expected = compiled_model(keras_encoder())
    expected.set_weights(model.get_weights())
    expected.compile(optimizer=tf.keras.optimizers.SGD(0.05), jit_compile=False)
    images = draw_images(rng, 4)
    np.testing.assert_allclose(fit(model, images)["loss"], fit(expected, images)["loss"], rtol=1e-4)
    for a, b in zip(weights_of(expected), weights_of(model), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5)


def test_fit_of_keras_gives_the_weights_of_the_trainer(rng):
    """From the same initial weights, seed, optimizer and batches."""
    images, labels = draw_images(rng, 12), np.arange(12, dtype=np.int32) % 2
    config = CONFIG.replace(labelled=True, precision="float64", batch_size=4, epochs=2, ema=0.5, weight_decay=1e-3)
    trainer = Trainer(config, images, labels)
    trainer.fit()

    dtype, seed = "float64", config.data.seed
    encoder = networks.build_encoder(config.model, 16, seed=seed, dtype=dtype)
    model = MaskedContrastiveModel(
        encoder,
        networks.build_projection_head(config.model, encoder.output_shape[-1], seed=seed, dtype=dtype),
        loss_config=LossConfig(beta=2.0),
        weight_decay=1e-3,
        seed=seed,
        ema=0.5,
    )
    schedule = optimizers.make_schedule(config.training, batch_size=4, total_steps=6, steps_per_epoch=3)
    model.compile(optimizer=optimizers.make_optimizer(config.training, schedule), jit_compile=False)
    model.fit(training_batches(images, labels, 4, seed), epochs=2, steps_per_epoch=3, shuffle=False, verbose=0)
    model.averages.copy_to_weights()  # as the trainer does at the end
    start = build_model(config, 16)
    for initial, a, b in zip(weights_of(start), weights_of(trainer.model), weights_of(model), strict=True):
        assert np.any(a != initial)
        np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-12)
