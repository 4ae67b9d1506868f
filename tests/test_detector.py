"""The detector: equal scores for all forms of input, threshold, classes, files, and refusals in one line."""

import builtins
import copy
import errno
import functools
import io
import json
import os
import pathlib
import random
import re
import shutil
import signal
import time
import types

import numpy as np
import pytest
import sklearn.base
import sklearn.covariance
import sklearn.metrics
import tensorflow as tf
from absl import flags as absl_flags
from PIL import Image

import flags
import mcl_tf
from mcl_tf import calibration, fitting
from mcl_tf.model import MaskedContrastiveModel
from mcl_tf.normal_images import select_held_out
from mcl_tf.scorer import SelfEnsembleScorer
from mcl_tf.training import callbacks
from mcl_tf.units import EVIDENCE_WEIGHT
from mcl_tf.utils import atomic
from mcl_tf.utils.console import is_terminal

OPTIONS = dict(
    encoder="small", width=0.25, projection_hidden=32, projection_dim=16, batch_size=4, calibration_fraction=0.25
)
COUNT = 24  # half of them are held out, because the pass rate of 0.95 needs 19


def make_detector(**options):
    """Create a tiny detector, by default without training, which would take seconds."""
    return mcl_tf.AnomalyDetector(**{**OPTIONS, "epochs": 0, **options})


def noise(count, height=16, width=16, channels=3, seed=0):
    """Draw seeded random images, uint8 [count, height, width, channels]."""
    shape = (count, height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(count, seed=0):
    """Draw noise of 4x4 pixels, enlarged: unlike `noise`, also in its texture."""
    return noise(count, 4, 4, seed=seed).repeat(4, axis=1).repeat(4, axis=2)


def tinted(count, seed=0):
    """Draw reddish (class 0) and bluish (class 1) noise, alternating: uint8 [count, 16, 16, 3], int [count]."""
    labels = np.arange(count) % 2
    tint = np.array([[120, 0, 0], [0, 0, 120]], np.uint8)[labels][:, None, None]
    return noise(count, seed=seed) // 2 + tint, labels


def as_dataset(images, labels, form):
    """Return images as a dataset; `form` is "single" or "batched", followed by "labels" to include them."""
    dataset = tf.data.Dataset.from_tensor_slices((images, labels) if "labels" in form else images)
    return dataset.batch(5) if "batched" in form else dataset


FORMS = ["single", "batched", "single labels", "batched labels"]


class NoTraining(tf.keras.callbacks.Callback):
    """Fails at the first training step."""

    def on_train_batch_end(self, batch, logs=None):
        raise AssertionError("a finished training has continued")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def trained(run_dir):
    """A detector of one class, trained for three steps with checkpoints in `run_dir`."""
    return make_detector(epochs=1, run_dir=str(run_dir)).fit(noise(COUNT))


@pytest.fixture(scope="module")
def untrained():
    """A detector with the images and initial weights of `trained`."""
    return make_detector().fit(noise(COUNT))


@pytest.fixture(scope="module")
def labelled():
    """A detector of two classes with names."""
    return make_detector().fit(*tinted(COUNT), class_names=["red", "blue"])


@pytest.fixture(scope="module")
def unlabelled():
    """A detector with the images of `labelled` as one class."""
    return make_detector().fit(tinted(COUNT)[0])


@pytest.fixture
def saved(labelled, tmp_path):
    labelled.save(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture(scope="module")
def observed():
    """The training of `trained` with a callback, under a global policy and with seeded global generators.

    Returns (detector, callback, (state before the fit, state after it)).
    """

    class Recorder(tf.keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.logs, self.names = [], []

        def on_train_begin(self, logs=None):
            self.names.append("train begin")

        def on_train_batch_end(self, batch, logs=None):
            self.logs.append(logs)

        def on_epoch_end(self, epoch, logs=None):
            self.names.append(f"epoch {epoch}")

        def on_train_end(self, logs=None):
            self.names.append("train end")

    def state():
        numbers = (
            random.getstate(),
            repr(np.random.get_state()),
            tf.random.get_global_generator().state.numpy().tolist(),
        )
        return numbers, tf.keras.mixed_precision.global_policy().name

    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        random.seed(1)
        np.random.seed(1)
        tf.random.set_seed(1)
        first, recorder = state(), Recorder()
        detector = make_detector(epochs=1).fit(noise(COUNT), callbacks=[recorder])
        drawn = float(tf.random.uniform([]))
        states = first, state()
        tf.random.set_seed(1)
        assert drawn == float(tf.random.uniform([]))
    finally:
        tf.keras.mixed_precision.set_global_policy(before)
    return detector, recorder, states


# Training.


@pytest.mark.slow
def test_the_same_seed_gives_the_same_scores(trained, capsys):
    again = make_detector(epochs=1).fit(noise(COUNT))
    assert capsys.readouterr() == ("", "")  # by default, progress is shown on a terminal only
    images = noise(9, seed=1)
    # Equal to the bit where every sum has the same order; threads may change the last digits.
    np.testing.assert_allclose(again.calibration_scores_, trained.calibration_scores_, rtol=1e-5)
    np.testing.assert_allclose(again.decision_function(images), trained.decision_function(images), rtol=1e-5)


def test_another_seed_gives_other_scores(unlabelled):
    other = make_detector(seed=1).fit(tinted(COUNT)[0])
    images = noise(5, seed=1)
    assert not np.allclose(other.decision_function(images), unlabelled.decision_function(images), rtol=1e-2)


def test_training_changes_the_scores(trained, untrained):
    """Otherwise, two trainings that did nothing would count as equal."""
    images = noise(5, seed=1)
    assert not np.allclose(untrained.decision_function(images), trained.decision_function(images), rtol=1e-2)


def test_images_beyond_the_memory_limit_give_the_same_detector(tmp_path):
    images, cache = noise(COUNT, 32, 32), tmp_path / "cache"
    source = [tmp_path / f"{number}.png" for number in range(COUNT)]
    for path, image in zip(source, images, strict=True):
        Image.fromarray(image).save(path)
    options = {"score": "both", "image_size": 16, "detail_size": 32}  # the network sees the images at another size
    expected = make_detector(**options).fit(images)
    found = make_detector(**options, memory_limit="1KB", cache_dir=str(cache), run_dir=str(tmp_path / "run")).fit(
        source
    )
    np.testing.assert_array_equal(found.decision_function(images), expected.decision_function(images))
    np.testing.assert_array_equal(found.calibration_scores_, expected.calibration_scores_)
    # The images, and those trained on at the network's size.
    assert len([name for name in os.listdir(cache) if name[0] != "."]) == 2


def test_a_finished_run_is_restored_without_training(trained, run_dir):
    again = make_detector(epochs=1, run_dir=str(run_dir))
    again.fit(noise(COUNT), callbacks=[NoTraining()])
    np.testing.assert_allclose(again.calibration_scores_, trained.calibration_scores_, rtol=1e-4)


@pytest.mark.parametrize(
    ("images", "options", "difference"),
    [
        (noise(COUNT, seed=1), {}, f"on other images: {COUNT} then and now, with other contents"),
        (noise(COUNT)[:-1], {}, f"on other images: {COUNT} images then, {COUNT - 1} now"),
        (noise(COUNT), {"learning_rate": 0.1}, "learning_rate: 0.3, not 0.1"),
    ],
    ids=["other images", "fewer images", "other options"],
)
def test_the_run_directory_of_another_training_is_refused(images, options, difference, trained, run_dir):
    with pytest.raises(mcl_tf.UsageError, match=difference):
        make_detector(epochs=1, run_dir=str(run_dir), **options).fit(images, callbacks=[NoTraining()])


@pytest.mark.slow
def test_fit_leaves_global_generators_and_policy_unchanged(observed):
    _, _, (before, after) = observed
    assert after == before
    assert after[1] == "mixed_bfloat16"


def test_a_global_dtype_policy_has_no_effect(observed, trained):
    detector, images = observed[0], noise(9, seed=1)
    np.testing.assert_allclose(detector.calibration_scores_, trained.calibration_scores_, rtol=1e-5)
    np.testing.assert_allclose(detector.decision_function(images), trained.decision_function(images), rtol=1e-5)


def test_keras_callbacks_are_called(observed):
    _, recorder, _ = observed
    assert recorder.names == ["train begin", "epoch 0", "train end"]
    assert len(recorder.logs) == 3  # steps: 12 images in batches of 4
    assert all(np.isfinite(logs["loss"]) for logs in recorder.logs)
    assert {name: recorder.params[name] for name in ("epochs", "steps", "batch_size")} == {
        "epochs": 1,
        "steps": 3,
        "batch_size": 4,
    }
    assert isinstance(recorder.model, MaskedContrastiveModel)


@pytest.mark.slow
def test_verbose_1_prints_progress(capsys):
    make_detector(epochs=3).fit(noise(COUNT), verbose=1)
    output = capsys.readouterr()
    assert output.err == ""
    lines = output.out.splitlines()
    assert re.fullmatch(r"Training takes about .+ more \(\d+ ms per step, 3 steps\)\.", lines[0])
    assert re.fullmatch(r"  step 7 of 9, loss \d+\.\d+, \d+ s left", lines[1])


@pytest.mark.slow
def test_verbose_0_prints_nothing_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert is_terminal()
    make_detector(epochs=1).fit(noise(COUNT), verbose=0)
    assert capsys.readouterr() == ("", "")


# Parameters.


def test_fit_does_not_change_the_configuration(labelled, trained, run_dir):
    assert labelled.config == make_detector().config
    assert trained.config == make_detector(epochs=1, run_dir=str(run_dir)).config


LEARNED = (
    "threshold_",
    "promised_rate_",
    "calibration_scores_",
    "class_names_",
    "labelled_",
    "fitted_config_",
    "restarts_",
    "scorer_",
)


@pytest.mark.parametrize("name", LEARNED)
def test_fitted_attributes_exist_after_fit_only(name, trained):
    assert not hasattr(make_detector(), name)
    assert hasattr(trained, name)


def test_parameters_round_trip():
    detector = make_detector(normal=["3", "4"], shrinkage=None)
    parameters = detector.get_params()
    assert parameters == detector.get_params(deep=False) == detector.config.flat()
    assert mcl_tf.AnomalyDetector(**parameters).config == detector.config
    other = mcl_tf.AnomalyDetector()
    assert other.set_params(**parameters) is other
    assert other.config == detector.config
    assert other.set_params(epochs=7, views=4).get_params() == {**parameters, "epochs": 7, "views": 4}
    assert detector.get_params() == parameters


def test_set_params_refuses_wrong_parameters_and_changes_nothing():
    detector = make_detector()
    before = detector.config
    for parameters in ({"epochs": 3, "views": 5}, {"epochs": 3, "encodr": "small"}):
        with pytest.raises(mcl_tf.UsageError, match="Received: (5|encodr)"):
            detector.set_params(**parameters)
        assert detector.config == before


def test_scikit_learn_clones_the_parameters_only(trained):
    clone = sklearn.base.clone(trained)
    assert type(clone) is mcl_tf.AnomalyDetector
    assert clone.config == trained.config
    assert not hasattr(clone, "scorer_")
    assert hasattr(trained, "scorer_")


def test_a_config_and_options():
    config = mcl_tf.Config().replace(epochs=3, encoder="small")
    detector = mcl_tf.AnomalyDetector(config, epochs=5)
    assert detector.config == config.replace(epochs=5)
    assert config.training.epochs == 3


# Input.


@pytest.mark.parametrize("form", FORMS)
def test_arrays_and_datasets_give_the_same_fit(form, labelled, unlabelled):
    expected = labelled if "labels" in form else unlabelled
    found = make_detector().fit(as_dataset(*tinted(COUNT), form))
    # The held-out images depend on the order, so that equal calibration scores mean equal order.
    np.testing.assert_allclose(found.calibration_scores_, expected.calibration_scores_, rtol=1e-5)
    images = noise(5, seed=1)
    np.testing.assert_allclose(found.distances(images), expected.distances(images), rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(16, 16), (9, 12), (40, 28)])
def test_arrays_and_datasets_give_the_same_scores(form, size, trained):
    images = noise(7, *size, seed=1)
    found = trained.decision_function(as_dataset(images, np.arange(7), form))
    # Single images and batches are resized to the same values.
    np.testing.assert_allclose(found, trained.decision_function(images), rtol=1e-5)


def test_a_dataset_of_images_of_several_sizes(trained):
    images = [noise(1, *size, seed=7)[0] for size in ((16, 16), (9, 12), (40, 28))]
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(images), output_signature=tf.TensorSpec([None, None, 3], tf.uint8)
    )
    expected = [trained.decision_function(image[None])[0] for image in images]
    np.testing.assert_allclose(trained.decision_function(dataset), expected, rtol=1e-5)


def test_other_sizes_are_resized_as_documented(trained):
    """Bilinear with antialiasing, rounded to integers."""
    images = noise(4, 40, 28, seed=1)
    resized = np.round(tf.image.resize(images, (16, 16), antialias=True)).astype(np.uint8)
    np.testing.assert_allclose(trained.decision_function(images), trained.decision_function(resized), rtol=1e-5)


def grey_or_alpha(channels, count, seed):
    """Draw images with 1 or 4 channels; return them and their RGB values: grey is repeated, alpha is dropped."""
    images = noise(count, channels=channels, seed=seed)
    return images, np.repeat(images, 3, axis=-1) if channels == 1 else images[..., :3]


@pytest.mark.parametrize("channels", [1, 4])
def test_fit_on_grey_and_alpha(channels):
    images, plain = grey_or_alpha(channels, COUNT, seed=0)
    found, expected = make_detector().fit(images), make_detector().fit(plain)
    np.testing.assert_allclose(found.calibration_scores_, expected.calibration_scores_, rtol=1e-5)
    others = noise(5, seed=1)
    np.testing.assert_allclose(found.decision_function(others), expected.decision_function(others), rtol=1e-5)


@pytest.mark.parametrize("form", ["array", "single", "batched"])
@pytest.mark.parametrize("channels", [1, 4])
def test_score_grey_and_alpha(channels, form, saved):
    """A detector that has scored RGB images also scores the others."""
    detector = mcl_tf.AnomalyDetector.load(saved)
    images, plain = grey_or_alpha(channels, 6, seed=1)
    expected = detector.decision_function(plain)
    images = images if form == "array" else as_dataset(images, None, form)
    np.testing.assert_allclose(detector.decision_function(images), expected, rtol=1e-5)


@pytest.mark.parametrize(("shape", "image_size", "expected"), [((18, 20), 0, 20), ((8, 9), 0, 16), ((18, 20), 12, 12)])
def test_the_network_has_the_size_of_the_images(shape, image_size, expected):
    """The longer side, at least 16, unless `image_size` says otherwise."""
    detector = make_detector(image_size=image_size).fit(noise(6, *shape))
    assert detector.scorer_.image_size == expected
    assert np.all(np.isfinite(detector.decision_function(noise(2, *shape, seed=1))))


def test_the_scoring_batch_size_has_no_effect(untrained):
    """Gaussians and scores in small batches, the last one partial."""
    batched = make_detector(scoring_batch_size=5).fit(noise(COUNT))
    images = noise(13, seed=1)
    # The sums of the Gaussians have another order, which the inverse covariance magnifies.
    np.testing.assert_allclose(batched.decision_function(images), untrained.decision_function(images), rtol=1e-3)


def test_no_images_give_no_scores(trained):
    for empty in (noise(0), as_dataset(noise(0), None, "single")):
        assert trained.decision_function(empty).shape == (0,)
        assert trained.predict(empty).shape == (0,)


# Scores, compared with a second, plain computation.


def reference_distances(detector, train, images):
    """Compute the Mahalanobis distances of 8 views to 4 rotations, float64 [n, 8, 4], by NumPy but for the network."""

    def embed(images):
        columns = []
        for k in range(4):
            for flipped in (images, images[:, :, ::-1]):
                turned = np.rot90(flipped, k, axes=(1, 2)) / np.float32(255)
                z = np.float64(detector.scorer_.network(turned, training=False))
                columns.append(z / np.linalg.norm(z, axis=-1, keepdims=True))
        return np.stack(columns, axis=1)

    shrinkage = detector.config.scoring.shrinkage
    fitted, scored = embed(train), embed(images)
    distances = np.zeros((*scored.shape[:2], 4))
    for rotation in range(4):
        x = fitted[:, 2 * rotation : 2 * rotation + 2].reshape(-1, fitted.shape[-1])
        if shrinkage == "ledoit_wolf":
            covariance = sklearn.covariance.LedoitWolf().fit(x).covariance_
        else:
            covariance, share = np.cov(x.T), shrinkage or 0.0
            target = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
            covariance = (1 - share) * covariance + share * target
        centred = scored - x.mean(axis=0)
        precision = np.linalg.inv(covariance + 1e-9 * np.eye(len(covariance)))
        distances[:, :, rotation] = np.sqrt(np.einsum("nvd,de,nve->nv", centred, precision, centred))
    return distances


def to_own_rotation(distances):
    """Return the distances [n, 8] of the views to their own rotation; two views have the same one."""
    return distances[:, np.arange(8), np.arange(8) // 2]


SCORES = {
    "weighted": lambda distances: 1 / np.mean(1 / distances, axis=1),
    "sum": lambda distances: distances.sum(axis=1),
    "mean": lambda distances: distances.sum(axis=1),  # the name in the paper
    "min": lambda distances: distances.min(axis=1),
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "sum"},
        {"method": "min"},
        {"views": 2},
        {"views": 1, "shrinkage": 0.1},
        {"embedding": "encoder", "shrinkage": None},
        {"embedding": "projection", "views": 4, "method": "mean", "shrinkage": 1.0},
    ],
    ids=lambda options: ",".join(map(str, options.values())) or "default",
)
def test_scoring_options(options):
    # A pass rate of 0.5 needs one held-out image. The others give 46 embeddings per rotation, more than the 16
    # dimensions of the encoder's output, so that a covariance without shrinkage has an inverse.
    detector = make_detector(evidence=False, pass_rate=0.5, calibration_fraction=0.01, **options).fit(noise(COUNT))
    scoring = detector.config.scoring
    held_out = select_held_out(np.zeros(COUNT, int), detector.config)
    assert held_out.sum() == 1
    images = noise(6, seed=1)
    expected = to_own_rotation(reference_distances(detector, noise(COUNT)[~held_out], images))
    expected = expected[:, {0: slice(None), 4: slice(0, 8, 2), 2: slice(0, 2), 1: slice(0, 1)}[scoring.views]]
    distances = detector.distances(images)
    assert distances.shape == (6, scoring.views or 8, 1)
    # Embeddings are float32 on both sides; the inverse of a small variance magnifies their rounding.
    np.testing.assert_allclose(distances[..., 0], expected, rtol=1e-3)
    np.testing.assert_allclose(detector.decision_function(images), SCORES[scoring.method](expected), rtol=1e-3)
    again = detector.decision_function(noise(COUNT)[held_out])
    np.testing.assert_allclose(detector.calibration_scores_, again, rtol=1e-5)


def test_views_of_the_centre(tmp_path):
    """Nothing outside of it counts, also after loading; its features are those of the centre, enlarged."""
    detector = make_detector(view_area=0.25).fit(noise(COUNT))
    images = noise(6, seed=1)
    framed = images.copy()
    framed[:, 4:12, 4:12] = 0
    framed = images - framed
    assert np.ptp(framed[:, :4]) == 0
    scores = detector.decision_function(images)
    assert np.ptp(scores) > 0.01
    np.testing.assert_array_equal(detector.decision_function(framed), scores)
    heat = detector.explain(images)["heat_map"]
    assert np.ptp(heat[:, 4:12, 4:12]) > 0
    detector.save(tmp_path / "detector")
    np.testing.assert_array_equal(mcl_tf.AnomalyDetector.load(tmp_path / "detector").decision_function(framed), scores)


@pytest.fixture
def encoder_file(tmp_path):
    """A tiny encoder in a file, whose places the local score sees."""
    layers = tf.keras.layers
    inputs = layers.Input((16, 16, 3))
    encoder = tf.keras.Model(inputs, layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, 8, padding="same")(inputs)))
    encoder.save(tmp_path / "encoder.keras")
    return str(tmp_path / "encoder.keras")


@pytest.mark.parametrize("area", [0.5, (0.5, 0.25)])
def test_places_of_a_pretrained_encoder_need_the_whole_image(area, encoder_file):
    detector = mcl_tf.AnomalyDetector(encoder=encoder_file, epochs=0, score="both", view_area=area)
    message = f"view_area must then be 1, or have it among others. Received: {area}"
    with pytest.raises(mcl_tf.UsageError, match=re.escape(message)):
        detector.fit(noise(COUNT))


def test_places_are_those_of_the_whole_image(encoder_file):
    options = {"encoder": encoder_file, "freeze_encoder": True, "score": "both", "image_size": 16}
    whole, several = (
        mcl_tf.AnomalyDetector(**options, view_area=area).fit(noise(COUNT)).scorer_ for area in (1.0, (0.5, 1.0))
    )
    images = noise(4, seed=1)
    parts, expected = several.measure_parts(images)[2], whole.measure_parts(images)[2]
    np.testing.assert_allclose(parts["places"], expected["places"], rtol=1e-5)
    assert np.abs(parts["distance"] - expected["distance"]).max() > 0.01


def test_views_of_several_areas(tmp_path):
    """The area of 0.25 counts beside the whole image; what is saved has both."""
    detector = make_detector(view_area=(1.0, 0.25)).fit(noise(COUNT))
    images = noise(6, seed=1)
    assert detector.distances(images).shape == (6, 8, 1)
    scores = detector.decision_function(images)
    framed = images.copy()
    framed[:, :4] = 0
    assert np.abs(detector.decision_function(framed) - scores).min() > 1e-3
    heat = detector.explain(images)["heat_map"]
    assert np.ptp(heat[:, :4]) > 0
    detector.save(tmp_path / "detector")
    loaded = mcl_tf.AnomalyDetector.load(tmp_path / "detector")
    assert loaded.config.scoring.view_area == (1.0, 0.25)
    np.testing.assert_array_equal(loaded.decision_function(images), scores)


@pytest.mark.parametrize("held_out_count", [1, 12])
def test_rotation_evidence_is_added_in_units_of_normal_images(held_out_count):
    """Distance and evidence are standardized by the held-out images, or by the training images if those are few."""
    share = {"pass_rate": 0.5, "calibration_fraction": 0.01} if held_out_count == 1 else {}
    detector = make_detector(**share).fit(noise(COUNT))
    held_out = select_held_out(np.zeros(COUNT, int), detector.config)
    assert held_out.sum() == held_out_count
    fitted = noise(COUNT)[~held_out]
    images = np.concatenate([noise(6, seed=1), smooth(6)])

    def parts(images):
        distances = reference_distances(detector, fitted, images)
        own = to_own_rotation(distances)
        evidence = np.mean(own**2 - np.mean(distances**2, axis=2), axis=1)
        return np.stack([SCORES["weighted"](own), evidence])

    normal = parts(noise(COUNT)[held_out] if held_out_count >= 5 else fitted)
    center, spread = normal.mean(axis=1, keepdims=True), normal.std(axis=1, keepdims=True)
    distance, evidence = (parts(images) - center) / spread
    expected = distance + EVIDENCE_WEIGHT * evidence
    assert np.ptp(expected) > 1.0
    # The inverse of small variances magnifies the rounding of embeddings, and the evidence is a difference of squares.
    np.testing.assert_allclose(detector.decision_function(images), expected, rtol=5e-3, atol=5e-3 * np.ptp(expected))


def test_scores_are_not_constant(trained):
    """A collapsed network or missing Gaussians would give all images the same score."""
    scores = trained.decision_function(noise(20, seed=1))
    assert np.std(scores) > 0.01 * np.mean(scores)


# Collapse.


@pytest.fixture
def every_training_collapses(monkeypatch):
    monkeypatch.setattr(callbacks, "COLLAPSED", 10.0)
    monkeypatch.setattr(callbacks, "_PATIENCE", 1)


@pytest.mark.slow
def test_a_network_that_collapses_twice_is_refused(every_training_collapses):
    detector = make_detector(epochs=1)
    with pytest.raises(mcl_tf.UsageError, match="no detector. Try score local.*Received: 12 images") as error:
        detector.fit(noise(COUNT))
    assert "\n" not in str(error.value)
    assert not hasattr(detector, "scorer_")


@pytest.mark.slow
def test_both_scores_fall_back_to_the_local_one(every_training_collapses, library_log):
    detector = make_detector(epochs=1, score="both").fit(noise(COUNT))
    messages = library_log.messages
    assert sum("Only the local score is used" in message for message in messages) == 1
    assert sum("Starting again" in message for message in messages) == 1
    assert (detector.restarts_, detector.fitted_config_.scoring.score, detector.config.scoring.score) == (
        1,
        "local",
        "both",
    )
    expected = make_detector(score="local").fit(noise(COUNT))
    images = np.concatenate([noise(4, seed=1), smooth(4)])
    np.testing.assert_allclose(detector.decision_function(images), expected.decision_function(images), rtol=1e-5)


def woven(rng, count, side):
    """Threads in two directions, with noise; the defect is a patch whose threads are missing."""
    rows = np.sin(2 * np.pi * (np.arange(side) + rng.uniform(0, 8, (count, 1))) / 8)
    columns = np.sin(2 * np.pi * (np.arange(side) + rng.uniform(0, 8, (count, 1))) / 8)
    return 128 + 45 * (rows[:, :, None] + columns[:, None]) + rng.normal(0, 8, (count, side, side))


def parts_on_a_constant_background(rng, count, side):
    """A bright disk of about the same size and place on black."""
    y, x = np.mgrid[:side, :side]
    center = side / 2 + rng.uniform(-2, 2, (2, count, 1, 1))
    radius = side / 3.5 + rng.uniform(-1, 1, (count, 1, 1))
    inside = np.hypot(y - center[0], x - center[1]) < radius
    return inside * (180 + rng.uniform(-10, 10, (count, 1, 1)) + rng.normal(0, 3, (count, side, side)))


def low_contrast(rng, count, side):
    """Smooth texture within six grey levels."""
    coarse = rng.uniform(0, 1, (count, side // 8, side // 8)).repeat(8, 1).repeat(8, 2)
    fine = rng.uniform(0, 1, (count, side, side))
    return 125 + np.round(6 * (0.7 * coarse + 0.3 * fine))


DEFECTS = {  # of the middle of an image: what it becomes
    woven: lambda middle: np.full_like(middle, 128),
    parts_on_a_constant_background: lambda middle: middle // 3,
    low_contrast: lambda middle: np.where(np.indices(middle.shape).sum(0) % 2, 131, 125),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "count"),
    [(woven, 120), (low_contrast, 120), (parts_on_a_constant_background, 30)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_no_collapse_on_synthetic_images(draw, count):
    """With the options for folders at a smaller size: one start, and obvious defects are found.

    15 images that differ in their noise alone may be too few for the network, which then leaves the local score.
    """
    values = copy.deepcopy(absl_flags.FLAGS)
    values(["main.py", f"--flagfile={pathlib.Path(flags.__file__).parent / 'presets' / 'folder.flags'}"])
    config = flags.config_from_flags(values).replace(detail_size=64, image_size=32, max_steps=60)
    images = np.clip(np.round(draw(np.random.default_rng(0), count + 80, 64)), 0, 255).astype(np.uint8)
    images[-40:, 24:40, 24:40] = DEFECTS[draw](images[-40:, 24:40, 24:40].astype(int))
    images = images[..., None]
    detector = mcl_tf.AnomalyDetector(config).fit(images[:count])
    if count >= 100:
        assert (detector.restarts_, detector.fitted_config_.scoring.score) == (0, "both")
    scores = detector.decision_function(images[count:])
    assert sklearn.metrics.roc_auc_score(np.arange(80) >= 40, scores) > 0.9


# P-values, and new normal images.


def test_p_values_are_those_of_the_calibration_scores(trained):
    images = np.concatenate([noise(5, seed=9), smooth(3)])
    expected = calibration.p_values(trained.calibration_scores_, trained.decision_function(images))
    np.testing.assert_array_equal(trained.score_samples(images), expected)
    np.testing.assert_array_equal(trained.predict_proba(images), np.stack([expected, 1 - expected], axis=1))


def test_images_of_several_sizes_and_files_have_the_scores_of_arrays(trained, tmp_path):
    images = [*noise(2, seed=9), smooth(1)[0], noise(1, 20, 12, seed=3)[0]]
    expected = np.concatenate([trained.decision_function(image[None]) for image in images])
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    for source in (images, paths):
        np.testing.assert_allclose(trained.decision_function(source), expected, atol=1e-4)


@pytest.mark.parametrize("score", ["image", "both"])
def test_an_update_is_what_a_fit_without_training_learns(score):
    """Without training, the network follows from the seed alone, so that only what is fitted after it can differ."""
    options = {"score": score, "image_size": 16, "detail_size": 16}
    updated, expected = make_detector(**options).fit(noise(COUNT)), make_detector(**options).fit(smooth(COUNT))
    assert updated.update(smooth(COUNT)) is updated
    for name, value in expected.scorer_.state().items():
        np.testing.assert_allclose(updated.scorer_.state()[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(updated.calibration_scores_, expected.calibration_scores_, rtol=1e-5, atol=1e-6)
    assert updated.threshold_ == pytest.approx(expected.threshold_, rel=1e-5)


@pytest.mark.parametrize(("draw", "level"), [(noise, "INFO"), (smooth, "WARNING")], ids=["same", "other"])
def test_an_update_says_how_far_the_new_images_are(draw, level, library_log):
    detector = make_detector().fit(noise(COUNT))
    library_log.clear()
    detector.update(draw(COUNT, seed=1))
    (record,) = [record for record in library_log.records if "The old threshold flagged" in record.message]
    assert record.levelname == level
    assert ("should be trained anew" in record.message) == (level == "WARNING")


def test_an_update_that_fails_changes_nothing(monkeypatch):
    detector = make_detector().fit(noise(COUNT))
    before, scores = detector.scorer_.state(), detector.decision_function(smooth(3))
    for bad in (noise(1), np.repeat(noise(1), COUNT, 0)):
        with pytest.raises(mcl_tf.UsageError, match="two normal images|must differ"):
            detector.update(bad)
    monkeypatch.setattr(fitting, "fit_units", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        detector.update(smooth(COUNT))
    for name, value in detector.scorer_.state().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    np.testing.assert_array_equal(detector.decision_function(smooth(3)), scores)


def test_an_update_needs_the_classes_of_the_training():
    images, labels = tinted(COUNT)
    detector = make_detector().fit(images, labels, class_names=["red", "blue"])
    with pytest.raises(mcl_tf.UsageError, match="1 classes need as many names. Received: red, blue"):
        detector.update(images)
    assert detector.update(images, labels).class_names_ == ("red", "blue")
    with pytest.raises(mcl_tf.UsageError, match="call fit or load first"):
        make_detector().update(images)


# Threshold.


def test_predict_compares_scores_with_the_threshold(trained):
    images = np.concatenate([noise(COUNT), smooth(4)])
    found = trained.predict(images)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, trained.decision_function(images) > trained.threshold_)
    assert set(found) == {0, 1}


@pytest.mark.parametrize(
    ("count", "pass_rate", "held_out", "rank", "promised"),
    [
        (24, 0.0, 6, 1, 1.0),  # a quarter of the images
        (24, 0.5, 6, 4, 0.5),  # 7 * 0.5 is 3.5
        (24, 0.9, 9, 9, 0.1),  # as many as the pass rate needs
        (24, 0.95, 12, 12, 1 / 13),  # no more than half
        (24, 1.0, 6, 6, 1 / 7),
        (76, 0.95, 19, 19, 0.05),
    ],
)
def test_the_threshold_is_the_conformal_quantile(count, pass_rate, held_out, rank, promised, library_log):
    detector = make_detector(pass_rate=pass_rate).fit(noise(count))
    scores = detector.calibration_scores_
    assert scores.shape == (held_out,)
    assert detector.threshold_ == np.sort(scores)[rank - 1]
    assert detector.promised_rate_ == pytest.approx(promised)
    assert not np.isin(scores, detector.decision_function(noise(count, seed=1))).any()
    # A broken promise is said once; that of 1.0 cannot be kept by any number of images.
    broken = promised > 1.0 - pass_rate + 1e-9 and pass_rate < 1.0
    assert [record.levelname for record in library_log.records] == ["WARNING"] * broken
    if broken:
        assert "12 held-out normal images promise that at most 7.7 %" in library_log.messages[0]
        assert "not 5.0 %, which takes 19 held-out images" in library_log.messages[0]


@pytest.mark.parametrize("target", ["f1", "youden", "fpr=0.25"])
def test_a_threshold_from_labelled_examples(target, saved):
    detector = mcl_tf.AnomalyDetector.load(saved)
    images = np.concatenate([tinted(12, seed=5)[0], smooth(8)])
    is_anomaly = np.arange(20) >= 12
    scores = detector.decision_function(images)
    found = detector.threshold(images, is_anomaly, target)
    assert found == calibration.threshold_for(scores, is_anomaly, target)
    before = detector.threshold_
    assert detector.set_threshold(found) is detector
    assert detector.threshold_ == pytest.approx(found, rel=1e-6)  # float32
    assert detector.threshold_ != before
    np.testing.assert_array_equal(detector.predict(images), scores > detector.threshold_)
    detector.save(saved.parent / "again")
    assert mcl_tf.AnomalyDetector.load(saved.parent / "again").threshold_ == detector.threshold_


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_threshold_must_be_finite(value, labelled):
    before = labelled.threshold_
    with pytest.raises(mcl_tf.UsageError, match=f"threshold must be a finite number. Received: {value}"):
        labelled.set_threshold(value)
    assert labelled.threshold_ == before


GREY, COPIES = np.full((24, 16, 16, 3), 128, np.uint8), np.repeat(noise(1), 24, axis=0)


@pytest.mark.parametrize("options", [{}, {"evidence": False}, {"score": "local"}, {"score": "both"}], ids=str)
@pytest.mark.parametrize("images", [GREY, COPIES], ids=["grey", "copies"])
def test_equal_images_are_refused(images, options):
    """The local score would amplify the rounding of copies to scores that differ."""
    with pytest.raises(mcl_tf.UsageError, match="must differ from each other. Received: 24 equal images"):
        make_detector(**options).fit(images)


def test_classes_of_one_image_each_are_refused():
    with pytest.raises(mcl_tf.UsageError, match="at least two images.* Received: 3 classes with one image each"):
        make_detector().fit(noise(3), np.arange(3))


def test_images_of_a_single_colour_each_are_warned_of(library_log):
    images = np.repeat(np.arange(0, 200, 10, np.uint8), 16 * 16 * 3).reshape(-1, 16, 16, 3)
    make_detector().fit(images)
    warnings = [message for message in library_log.messages if "single colour" in message]
    assert warnings == ["All 20 normal images are of a single colour each; there is little to learn."]


def test_a_detector_that_scores_all_images_alike_is_refused(monkeypatch):
    monkeypatch.setattr(SelfEnsembleScorer, "scores", lambda self, images, visible=True: np.full(len(images), 7.0))
    with pytest.raises(mcl_tf.UsageError, match="All 12 held-out normal images have the same score") as error:
        make_detector().fit(noise(24))
    assert "\n" not in str(error.value)


# Classes.


def test_every_class_has_its_own_gaussians(labelled):
    """Distances to a class depend on the images of that class only."""
    train, labels = tinted(COUNT)
    fitted = ~select_held_out(labels, labelled.config)
    images = noise(6, seed=1)
    distances = labelled.distances(images)
    assert distances.shape == (6, 8, 2)
    for label in range(2):
        expected = to_own_rotation(reference_distances(labelled, train[fitted & (labels == label)], images))
        # As above, the inverse of small variances magnifies the rounding of embeddings.
        np.testing.assert_allclose(distances[..., label], expected, rtol=1e-3)


def test_class_names(labelled, unlabelled):
    assert labelled.class_names_ == ("red", "blue")
    assert labelled.labelled_
    assert unlabelled.class_names_ == ("0",)
    assert not unlabelled.labelled_
    assert make_detector().fit(*tinted(COUNT)).class_names_ == ("0", "1")


def test_class_names_as_an_array():
    names = np.array(["red", "blue"])
    assert make_detector().fit(*tinted(COUNT), class_names=names).class_names_ == ("red", "blue")


@pytest.mark.parametrize("name", ["callbacks", "class_names", "labels", "verbose"])
def test_arguments_of_fit_are_no_options(name):
    with pytest.raises(
        mcl_tf.UsageError, match=rf"^{name} is an argument of fit and no option. Received: {name}=\[3\]$"
    ):
        mcl_tf.AnomalyDetector(**{name: [3]})


@pytest.mark.slow
def test_repeated_training_and_scoring_warn_of_no_retracing(two_replicas, keras_settings, caplog, monkeypatch):
    """Among them: one callback without a list, other settings of Keras, and the scope of the caller's strategy."""
    monkeypatch.setattr(tf.get_logger(), "propagate", True)
    options, seen = {"epochs": 1, "max_steps": 1, "views": 1}, []
    callback = tf.keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    expected = make_detector(**options).fit(noise(COUNT), callbacks=callback)
    scores = expected.decision_function(noise(6))
    assert seen == [0]
    for settings in (("float16", "channels_first", "mixed_bfloat16"), ("float64", "channels_first", "float64")) * 2:
        keras_settings(*settings)
        detector = make_detector(**options).fit(noise(COUNT))
        np.testing.assert_array_equal(detector.decision_function(noise(6)), scores)
        detector.decision_function(noise(3 + len(seen)))
    with two_replicas.scope():
        assert np.isfinite(make_detector(**options).fit(noise(COUNT)).decision_function(noise(6))).all()
    assert "retracing" not in caplog.text


# Files.


def assert_equal_detectors(found, expected):
    """Check that two detectors have the same learned state."""
    assert found.class_names_ == expected.class_names_
    assert found.labelled_ == expected.labelled_
    assert found.threshold_ == expected.threshold_
    np.testing.assert_array_equal(found.calibration_scores_, expected.calibration_scores_)
    state = expected.scorer_.state()
    assert set(found.scorer_.state()) == set(state)
    for name, values in found.scorer_.state().items():
        np.testing.assert_array_equal(values, state[name], err_msg=name)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"embedding": "projection", "views": 4, "method": "min"},
        {"precision": "bfloat16"},
        {"precision": "float64"},
    ],
    ids=str,
)
def test_a_loaded_detector_is_the_saved_detector(options, tmp_path):
    saved = make_detector(**options).fit(*tinted(COUNT), class_names=["red", "blue"])
    saved.save(tmp_path / "new" / "detector")
    loaded = mcl_tf.AnomalyDetector.load(tmp_path / "new" / "detector")
    images = noise(5, 20, 18, seed=1)
    np.testing.assert_array_equal(loaded.decision_function(images), saved.decision_function(images))
    assert_equal_detectors(loaded, saved)
    assert loaded.config == saved.config.replace(labelled=True)
    assert loaded.scorer_.network.layers[1].dtype_policy.name == saved.scorer_.network.layers[1].dtype_policy.name


def test_a_saved_detector_has_no_code(labelled, tmp_path):
    """JSON and arrays of numbers, which execute nothing on loading, unlike a pickle."""
    labelled.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "weights.npz"]
    json.loads((tmp_path / "config.json").read_text())
    with np.load(tmp_path / "weights.npz", allow_pickle=False) as arrays:
        assert {"means", "whitenings", "threshold", "network/0000"} <= set(arrays)
        assert {arrays[name].dtype.kind for name in arrays} == {"f"}


def test_save_replaces_a_detector(trained, labelled, tmp_path):
    trained.save(tmp_path / "detector")
    labelled.save(tmp_path / "detector")
    assert_equal_detectors(mcl_tf.AnomalyDetector.load(tmp_path / "detector"), labelled)
    assert len(list((tmp_path / "detector").iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["detector"]


def test_save_follows_a_link(trained, labelled, tmp_path):
    trained.save(tmp_path / "detector")
    (tmp_path / "link").symlink_to("detector")
    labelled.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert_equal_detectors(mcl_tf.AnomalyDetector.load(tmp_path / "detector"), labelled)


def contents(folder):
    """Return {path: bytes} of all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("foreign", ["notes.txt", ".hidden", "images/0.png"])
def test_save_refuses_a_folder_with_other_files(foreign, labelled, trained, tmp_path):
    folder = tmp_path / "mine"
    trained.save(folder)
    (folder / foreign).parent.mkdir(exist_ok=True)
    (folder / foreign).write_text("important")
    before = contents(tmp_path)
    name = foreign.split("/")[0]
    with pytest.raises(mcl_tf.UsageError, match=rf"needs a folder of its own\. .*mine holds {name}$"):
        labelled.save(folder)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("path", ["file", "file/detector"])
def test_save_refuses_a_file(path, labelled, tmp_path):
    (tmp_path / "file").write_text("important")
    with pytest.raises(mcl_tf.UsageError, match=f"cannot be saved in .*{path}: "):
        labelled.save(tmp_path / path)
    assert contents(tmp_path) == {"file": b"important"}


# Interrupted saves.


OPERATIONS = (
    (os, ("open", "close", "fsync", "stat", "lstat", "mkdir", "rename", "replace", "listdir", "scandir")),
    (os, ("unlink", "rmdir")),
    (pathlib.Path, ("write_text", "mkdir", "rglob")),
    (io, ("open",)),
    (builtins, ("open",)),
    (np, ("savez",)),
    (atomic, ("_exchange",)),
)


def interrupt_operations(monkeypatch, act):
    """Call `act(number, name)` before every operation on files, and count them.

    Returns a list whose only item is the number of operations so far.
    """
    count = [0]

    def patch(module, name):
        original = getattr(module, name)

        @functools.wraps(original)
        def operation(*arguments, **options):
            count[0] += 1
            act(count[0] - 1, f"{module.__name__}.{name}")
            return original(*arguments, **options)

        monkeypatch.setattr(module, name, operation)

    for module, names in OPERATIONS:
        for name in names:
            patch(module, name)
    return count


@pytest.fixture(scope="module")
def two_detectors(labelled, unlabelled, tmp_path_factory):
    """Contents of the folders of two saved detectors; both can be loaded."""
    folder = tmp_path_factory.mktemp("two")
    for name, detector in (("old", unlabelled), ("new", labelled)):
        detector.save(folder / name)
        assert_equal_detectors(mcl_tf.AnomalyDetector.load(folder / name), detector)
    return contents(folder / "old"), contents(folder / "new")


def count_operations(monkeypatch, unlabelled, labelled, folder):
    unlabelled.save(folder)
    with monkeypatch.context() as patches:
        count = interrupt_operations(patches, lambda number, name: None)
        labelled.save(folder)
        total = count[0]
    assert total > 10
    return total


class Injected(BaseException):
    """Like KeyboardInterrupt: nothing may catch it."""


@pytest.mark.parametrize(
    ("error", "exchanges"),
    [(OSError(errno.EIO, "injected"), True), (Injected(), False)],
    ids=["OSError, exchange", "interrupt, two renames"],
)
def test_a_failing_save_leaves_the_old_or_the_new_detector(
    error, exchanges, labelled, unlabelled, two_detectors, tmp_path, monkeypatch
):
    """At every operation on files; without an atomic exchange of folders, too."""
    old, new = two_detectors
    if not exchanges:
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    total = count_operations(monkeypatch, unlabelled, labelled, tmp_path / "count" / "detector")
    outcomes = []
    for index in range(total):
        folder = tmp_path / str(index) / "detector"
        unlabelled.save(folder)

        def fail(number, name, index=index):
            if number == index:
                raise error

        with monkeypatch.context() as patches:
            interrupt_operations(patches, fail)
            try:
                labelled.save(folder)
                raised = False
            except (mcl_tf.UsageError, Injected):
                raised = True
        found = contents(folder)
        assert found in (old, new), (index, sorted(found))
        assert raised or found == new, index
        outcomes.append(found == new)
        labelled.save(folder)  # the next save succeeds
        assert contents(folder) == new
    assert {True, False} == set(outcomes)


@pytest.mark.slow
def test_a_killed_save_leaves_the_old_or_the_new_detector(labelled, unlabelled, two_detectors, tmp_path, monkeypatch):
    """A forked process ends, without any clean-up, at every operation on files."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    if not atomic._exchange(tmp_path / "first", tmp_path / "second"):
        pytest.skip("this file system cannot exchange two names")
    old, new = two_detectors
    total = count_operations(monkeypatch, unlabelled, labelled, tmp_path / "count" / "detector")
    # The forked process has none of TensorFlow's threads, so it gets the state beforehand.
    state = labelled.scorer_.state()
    frozen = copy.copy(labelled)
    scorer = labelled.scorer_
    frozen.scorer_ = types.SimpleNamespace(
        state=lambda: state,
        network_size=scorer.network_size,
        image_size=scorer.image_size,
        texture=None,
        patches=None,
        encoder=scorer.encoder,
    )
    outcomes = []
    for index in range(total + 1):
        folder = tmp_path / str(index) / "detector"
        unlabelled.save(folder)
        child = os.fork()
        if child == 0:
            try:
                interrupt_operations(monkeypatch, lambda number, name, index=index: number == index and os._exit(9))
                frozen.save(folder)
                os._exit(0)
            finally:
                os._exit(1)
        code = wait_for(child)
        assert code == (0 if index == total else 9), index
        found = contents(folder)
        assert found in (old, new), (index, sorted(found))
        outcomes.append(found == new)
        labelled.save(folder)
        assert contents(folder) == new
    # The folders are exchanged in one of the last operations.
    assert outcomes == sorted(outcomes)
    assert {True, False} == set(outcomes)


def wait_for(child, seconds=60):
    """Return the exit code of a forked process; kill it if it takes too long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"process {child} has not ended")


# Refusals.


def cases(table):
    """Yield the rows of a table as test parameters."""
    for name, row in table.items():
        yield pytest.param(*(row if isinstance(row, tuple) else (row,)), id=name)


def dataset(*parts):
    return tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else parts[0])


WRONG_IMAGES = {
    "float": (lambda: noise(4) / 255.0, "uint8.*Received: float64"),
    "int": (lambda: noise(4).astype(np.int32), "uint8.*Received: int32"),
    "one image without batch": (lambda: noise(4)[0], r"\[n, h, w, c\].*Received: uint8 \[16, 16, 3\]"),
    "two channels": (lambda: noise(4)[..., :2], r"c = 1, 3 or 4.*Received: uint8 \[4, 16, 16, 2\]"),
    "a path that leads nowhere": (lambda: "images", "images cannot be read: No such file"),
    "nothing": (lambda: None, "uint8.*Received"),
    "no pixels": (lambda: noise(4, height=0), "Received: uint8"),
    "two sizes, one of float": (lambda: [noise(1)[0], np.float32(noise(1, 9, 9)[0])], "uint8.*Received: float32"),
    "dataset of float": (lambda: dataset(np.float32(noise(4))), "uint8.*Received: float32"),
    "dataset of rows": (lambda: dataset(noise(4)[0, 0]), "uint8.*Received"),
    "dataset of dicts": (lambda: dataset({"image": noise(4)}), "uint8.*Received"),
}


@pytest.mark.parametrize(("images", "message"), cases(WRONG_IMAGES))
def test_other_inputs_than_images_are_refused(images, message, unlabelled):
    for use in (make_detector().fit, unlabelled.decision_function, unlabelled.predict):
        with pytest.raises(mcl_tf.UsageError, match=message):
            use(images())


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("form", ["array", "single", "batched"])
def test_too_few_images_are_refused(count, form):
    images = noise(count) if form == "array" else as_dataset(noise(count), None, form)
    with pytest.raises(mcl_tf.UsageError, match=r"no images|at least two normal images\. Received: [01]"):
        make_detector().fit(images)


WRONG_LABELS = {
    "too few": (lambda y: {"labels": y[:5]}, r"24 images need as many.*\(5,\)"),
    "one-hot": (lambda y: {"labels": np.eye(2, dtype=int)[y]}, r"24 images need as many.*\(24, 2\)"),
    "float": (lambda y: {"labels": y + 0.5}, "integer labels.*float64"),
    "gap": (lambda y: {"labels": 2 * y}, r"0 to C - 1.*Received: \[0, 2\]"),
    "negative": (lambda y: {"labels": y - 1}, r"0 to C - 1.*Received: \[-1, 0\]"),
    "too few names": (lambda y: {"labels": y, "class_names": ["red"]}, "2 classes.*Received: red"),
    "numbers for names": (lambda y: {"labels": y, "class_names": [5]}, "2 classes.*Received: 5"),
    "names without labels": (lambda y: {"class_names": ["red", "blue"]}, "1 class.*Received: red, blue"),
}


@pytest.mark.parametrize(("arguments", "message"), cases(WRONG_LABELS))
def test_wrong_labels_are_refused(arguments, message):
    images, labels = tinted(COUNT)
    with pytest.raises(mcl_tf.UsageError, match=message):
        make_detector().fit(images, **arguments(labels))


@pytest.mark.parametrize("change", [lambda y: y + 0.5, lambda y: np.array(["red", "blue"])[y]], ids=["float", "words"])
def test_wrong_labels_in_a_dataset_are_refused(change):
    """As with arrays, 0.5 is not rounded to a class."""
    images, labels = tinted(COUNT)
    with pytest.raises(mcl_tf.UsageError, match="second part of an element must be an integer label.*Received"):
        make_detector().fit(as_dataset(images, change(labels), "single labels"))


def test_labels_beside_a_dataset_are_refused():
    images, labels = tinted(COUNT)
    with pytest.raises(
        mcl_tf.UsageError, match="dataset has labels as second part of its elements. Received: labels too"
    ):
        make_detector().fit(as_dataset(images, labels, "single labels"), labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encodr": "small"}, "Possible: .*encoder.*Received: encodr"),
        ({"encoder": "vgg"}, "encoder must be compact, small.*Received: 'vgg'"),
        ({"views": 3}, "views must be 0, 1, 2, 4 or 8.*Received: 3"),
        ({"shrinkage": 1.5}, "shrinkage must be .*from 0 to 1.*Received: 1.5"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(mcl_tf.UsageError, match=message):
        mcl_tf.AnomalyDetector(**options)


@pytest.mark.parametrize(
    "use",
    [
        lambda detector, path: detector.predict(noise(2)),
        lambda detector, path: detector.decision_function(noise(2)),
        lambda detector, path: detector.distances(noise(2)),
        lambda detector, path: detector.save(path / "it"),
        lambda detector, path: detector.export(path / "it"),
        lambda detector, path: detector.threshold(noise(2), [0, 1]),
        lambda detector, path: detector.set_threshold(1.0),
    ],
    ids=["predict", "decision_function", "distances", "save", "export", "threshold", "set_threshold"],
)
def test_use_before_fit_is_refused(use, tmp_path):
    with pytest.raises(mcl_tf.UsageError, match="fit or load first"):
        use(make_detector(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", LEARNED)
def test_learned_attributes_before_fit_are_attribute_errors(name):
    with pytest.raises(AttributeError, match=name):
        getattr(make_detector(), name)
    if name in ("threshold_", "promised_rate_", "labelled_"):
        with pytest.raises(AttributeError, match=f"^{name} exists after fit or load$"):
            getattr(make_detector(), name)


@pytest.mark.parametrize("fitted", [False, True])
def test_a_failed_fit_leaves_no_fitted_detector(fitted, monkeypatch):
    """Neither a network without Gaussians nor the state of an earlier fit."""
    detector = make_detector()
    if fitted:
        detector.fit(noise(COUNT))

    def fail(*arguments):
        raise mcl_tf.UsageError("no Gaussians")

    monkeypatch.setattr(fitting, "fit_gaussians", fail)
    with pytest.raises(mcl_tf.UsageError, match="no Gaussians"):
        detector.fit(noise(COUNT))
    for name in LEARNED:
        assert not hasattr(detector, name)
    with pytest.raises(mcl_tf.UsageError, match="fit or load first"):
        detector.predict(noise(2))


def test_a_class_of_one_image_is_not_held_out():
    """The held-out share is taken from every class, which keeps at least one image."""
    labels = np.zeros(COUNT, int)
    labels[3] = 1
    detector = make_detector().fit(noise(COUNT), labels)
    assert detector.class_names_ == ("0", "1")
    assert np.isfinite(detector.decision_function(noise(2))).all()


def test_a_second_fit_replaces_the_first(unlabelled):
    """Without labels, `beta` is 1 / temperature, independent of an earlier fit."""
    detector = make_detector().fit(*tinted(COUNT))
    detector.fit(tinted(COUNT)[0])
    assert_equal_detectors(detector, unlabelled)


# Damaged folders.


@pytest.mark.parametrize("make", [lambda path: None, pathlib.Path.mkdir, pathlib.Path.touch])
def test_load_without_a_detector_is_refused(make, tmp_path):
    make(tmp_path / "empty")
    with pytest.raises(mcl_tf.UsageError, match="no detector as written by `save` in .*empty"):
        mcl_tf.AnomalyDetector.load(tmp_path / "empty")


def changed(**entries):
    """Return a function that replaces some entries of a config.json."""
    return lambda text: json.dumps({**json.loads(text), **entries}).encode()


def changed_option(group, **options):
    """Return a function that replaces some options of a config.json."""

    def change(text):
        entries = json.loads(text)
        entries["config"][group].update(options)
        return json.dumps(entries).encode()

    return change


DAMAGED_CONFIGS = {
    "empty": lambda text: b"",
    "cut off": lambda text: text[:100].encode(),
    "not text": lambda text: b"\xff\xfe\x00",
    "not an object": lambda text: b"[]",
    "no entries": lambda text: b"{}",
    "config not an object": changed(config=[1]),
    "unknown option": changed_option("model", depth=3),
    "option out of range": changed_option("scoring", views=3),
    "class_names a number": changed(class_names=5),
    "class_names missing": changed(class_names=None),
    "image_size a word": changed(image_size="large"),
    "image_size zero": changed(image_size=0),
    "calibration_scores a word": changed(calibration_scores="low"),
    "calibration_scores a table": changed(calibration_scores=[[0.5]]),
}


@pytest.mark.parametrize("damage", cases(DAMAGED_CONFIGS))
def test_load_with_a_damaged_config_is_refused(damage, saved):
    config = saved / "config.json"
    config.write_bytes(damage(config.read_text()))
    with pytest.raises(mcl_tf.UsageError, match="no detector as written by `save` in .*saved"):
        mcl_tf.AnomalyDetector.load(saved)


def remove_means(path):
    with np.load(path) as arrays:
        kept = {name: arrays[name] for name in arrays if name != "means"}
    np.savez(path, **kept)


DAMAGED_WEIGHTS = {
    "missing": pathlib.Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "garbage": lambda path: path.write_bytes(b"x" * 1000),
    "no arrays": lambda path: np.savez(path),
    "one array alone": lambda path: path.write_bytes(np.lib.format.magic(1, 0) + b"x" * 100),
    "one array missing": remove_means,
    "a pickle": lambda path: path.write_bytes(b"\x80\x04N."),
}


@pytest.mark.parametrize("damage", cases(DAMAGED_WEIGHTS))
def test_load_with_damaged_weights_is_refused(damage, saved):
    damage(saved / "weights.npz")
    with pytest.raises(mcl_tf.UsageError, match="weights in .*saved"):
        mcl_tf.AnomalyDetector.load(saved)


def test_load_with_weights_of_another_network_is_refused(saved, trained, tmp_path):
    """Gaussians of one class instead of two."""
    trained.save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "weights.npz", saved)
    with pytest.raises(mcl_tf.UsageError, match="weights in .*saved"):
        mcl_tf.AnomalyDetector.load(saved)
