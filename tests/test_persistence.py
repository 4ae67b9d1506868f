"""Detectors in folders: equal scores for every kind of score and encoder, and files of the first development version.

tests/test_detector.py has the contents of the folder, interrupted saves, and damaged files.
"""

import copy
import json
import os
import pickle
import shutil

import joblib
import numpy as np
import pytest
import sklearn.base
import tensorflow as tf

from mcl_tf import AnomalyDetector, persistence
from mcl_tf.config import Config
from mcl_tf.errors import UsageError
from mcl_tf.training import callbacks

OPTIONS = dict(encoder="small", width=0.25, projection_hidden=32, projection_dim=16, batch_size=4, epochs=0)
layers = tf.keras.layers


def noise(count, side=24, seed=0):
    """Seeded random images: uint8 [count, side, side, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def greys(count, side=24, seed=0):
    return np.repeat(noise(count, side, seed)[..., :1], 3, axis=-1)


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory):
    """A saved Keras model with batch normalization, two stages and an output of 12 dimensions."""
    model = tf.keras.Sequential(
        [
            layers.Input((16, 16, 3)),
            layers.Conv2D(6, 3, strides=2, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(12, 3, strides=2, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
        ]
    )
    generator = np.random.default_rng(0)
    model.set_weights([np.abs(generator.normal(size=weight.shape)) for weight in model.get_weights()])
    path = tmp_path_factory.mktemp("encoders") / "mine.keras"
    model.save(path)
    return path


def assert_same(loaded, saved, images):
    """Check that a loaded detector equals the saved one to the bit."""
    for name in ("distances", "decision_function", "predict"):
        found, expected = getattr(loaded, name)(images), getattr(saved, name)(images)
        assert np.abs(found - expected).max() == 0.0
    assert np.ptp(saved.decision_function(images)) > 0.0
    for name in ("threshold_", "promised_rate_", "class_names_", "labelled_", "restarts_", "fitted_config_"):
        assert getattr(loaded, name) == getattr(saved, name)
    np.testing.assert_array_equal(loaded.calibration_scores_, saved.calibration_scores_)
    for name in ("network_size", "image_size", "view_count", "evidence", "by_likelihood", "is_scaled"):
        assert getattr(loaded.scorer_, name) == getattr(saved.scorer_, name)
    assert loaded.scorer_.knows_rotations == saved.scorer_.knows_rotations


@pytest.mark.parametrize(
    "options",
    [
        {"score": "image", "evidence": False, "embedding": "encoder", "standardize": False},
        {"score": "local", "detail_size": 32},
        {"score": "both", "image_size": 16, "detail_size": 32, "embedding": "projection", "views": 4},
        {"encoder": "compact", "rotation_weight": 0.0},
        {"epochs": 1},
    ],
    ids=str,
)
def test_round_trip_is_exact(options, tmp_path):
    draw = greys if options.get("detail_size") == 32 else noise
    saved = AnomalyDetector(**{**OPTIONS, **options}).fit(draw(24))
    saved.save(tmp_path / "detector")
    loaded = AnomalyDetector.load(tmp_path / "detector")
    assert_same(loaded, saved, np.concatenate([draw(5, seed=1), noise(4, seed=2) // 3]))
    assert sorted(path.name for path in (tmp_path / "detector").iterdir()) == ["config.json", "weights.npz"]
    assert (
        (loaded.scorer_.texture is None) == (saved.scorer_.texture is None) == (options.get("score") in (None, "image"))
    )
    if saved.scorer_.texture is not None:
        assert loaded.scorer_.texture.channels == saved.scorer_.texture.channels == (3 if draw is noise else 1)


def test_round_trip_with_classes_is_exact(tmp_path):
    labels = np.arange(24) % 2
    images = noise(24)
    images[labels == 1] //= 2
    saved = AnomalyDetector(**OPTIONS, score="both").fit(images, labels, class_names=["bright", "dark"])
    saved.save(tmp_path / "detector")
    assert_same(AnomalyDetector.load(tmp_path / "detector"), saved, noise(5, seed=1))


@pytest.mark.parametrize(("classes", "evidence"), [(1, True), (2, False), (2, True)])
def test_classes_with_evidence_of_rotations_are_refused(classes, evidence, tmp_path):
    """Earlier versions added the evidence of rotations and did not compare classes by likelihood."""
    labels = np.arange(24) % 2 if classes == 2 else None
    saved = AnomalyDetector(**OPTIONS, evidence=evidence).fit(noise(24), labels)
    saved.save(tmp_path / "detector")
    file = tmp_path / "detector" / "config.json"
    contents = json.loads(file.read_text())
    del contents["evidence"]
    file.write_text(json.dumps(contents))
    if classes == 2 and evidence:
        with pytest.raises(UsageError, match="is of an earlier version, with other evidence; fit it again"):
            AnomalyDetector.load(tmp_path / "detector")
    else:
        assert_same(AnomalyDetector.load(tmp_path / "detector"), saved, noise(5, seed=1))


@pytest.mark.parametrize(
    ("options", "standardize"), [({"score": "both"}, True), ({"embedding": "encoder", "views": 1}, False)], ids=str
)
def test_frozen_encoder_from_a_file_travels_with_the_detector(options, standardize, encoder_file, tmp_path):
    """Its own file may be gone when the detector is loaded."""
    path = shutil.copy(encoder_file, tmp_path / "mine.keras")
    own = dict(encoder=str(path), freeze_encoder=True, image_size=16, standardize=standardize)
    saved = AnomalyDetector(**{**OPTIONS, **own, **options}).fit(noise(24))
    saved.save(tmp_path / "detector")
    path.unlink()
    names = sorted(file.name for file in (tmp_path / "detector").iterdir())
    assert names == ["config.json", "encoder.keras", "weights.npz"]
    loaded = AnomalyDetector.load(tmp_path / "detector")
    assert_same(loaded, saved, np.concatenate([noise(5, seed=1), noise(4, seed=2) // 3]))
    assert loaded.scorer_.view_count == options.get("views", 2)
    # A loaded detector can be saved again.
    loaded.save(tmp_path / "again")
    assert_same(AnomalyDetector.load(tmp_path / "again"), saved, noise(5, seed=1))


def test_encoder_file_without_its_model_is_refused(encoder_file, tmp_path):
    own = dict(encoder=str(encoder_file), freeze_encoder=True, image_size=16)
    AnomalyDetector(**{**OPTIONS, **own}).fit(noise(24)).save(tmp_path / "detector")
    (tmp_path / "detector" / "encoder.keras").write_bytes(b"not a model")
    with pytest.raises(UsageError, match="encoder.keras cannot be loaded") as error:
        AnomalyDetector.load(tmp_path / "detector")
    assert "\n" not in str(error.value)


def test_own_encoder_replaces_one_from_elsewhere(encoder_file, tmp_path):
    """No file of the older detector is left behind."""
    own = dict(encoder=str(encoder_file), freeze_encoder=True, image_size=16)
    AnomalyDetector(**{**OPTIONS, **own}).fit(noise(24)).save(tmp_path / "detector")
    saved = AnomalyDetector(**OPTIONS).fit(noise(24))
    saved.save(tmp_path / "detector")
    assert sorted(path.name for path in (tmp_path / "detector").iterdir()) == ["config.json", "weights.npz"]
    assert_same(AnomalyDetector.load(tmp_path / "detector"), saved, noise(5, seed=1))


@pytest.mark.slow
def test_a_loaded_detector_fits_again(tmp_path):
    """With the options of the saved one; nothing learned is left over."""
    AnomalyDetector(**OPTIONS, score="both").fit(noise(24)).save(tmp_path / "detector")
    again = AnomalyDetector.load(tmp_path / "detector").fit(noise(24, seed=5))
    expected = AnomalyDetector(**OPTIONS, score="both").fit(noise(24, seed=5))
    np.testing.assert_allclose(again.decision_function(noise(4)), expected.decision_function(noise(4)), rtol=1e-4)


@pytest.mark.slow
def test_restarts_and_the_fallback_to_the_local_score_are_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "COLLAPSED", 10.0)  # every training counts as collapsed
    monkeypatch.setattr(callbacks, "_PATIENCE", 1)
    saved = AnomalyDetector(**{**OPTIONS, "epochs": 1}, score="both").fit(noise(24))
    assert saved.config.scoring.score == "both"
    saved.save(tmp_path / "detector")
    loaded = AnomalyDetector.load(tmp_path / "detector")
    assert (loaded.restarts_, loaded.fitted_config_.scoring.score) == (1, "local")
    assert loaded.scorer_.network is None
    assert_same(loaded, saved, noise(5, seed=1))


# Files of the first development version.

NEW_FIELDS = {  # of the configuration, by group
    "data": ["detail_size"],
    "model": ["encoder_weights", "freeze_encoder", "standardize"],
    "loss": ["rotation_weight"],
    "training": ["warmup_steps"],
    "scoring": ["evidence", "score"],
}
NEW_ENTRIES = ["detail_size", "texture_channels", "patches", "restarts", "evidence", "files"]
FIRST_VERSION = dict(standardize=False, rotation_weight=0.0, evidence=False, embedding="encoder", views=8)


def to_first_version(folder):
    """Remove from a saved detector what the first development version did not write."""
    contents = json.loads((folder / "config.json").read_text())
    for group, names in NEW_FIELDS.items():
        for name in names:
            del contents["config"][group][name]
    for name in NEW_ENTRIES:
        del contents[name]
    (folder / "config.json").write_text(json.dumps(contents))
    with np.load(folder / "weights.npz") as weights:
        kept = {name: weights[name] for name in weights if name != "standardization"}
    np.savez(folder / "weights.npz", **kept)


@pytest.mark.parametrize("options", [{}, {"embedding": "projection", "views": 4}, {"width": 0.5, "epochs": 1}], ids=str)
def test_files_of_the_first_version_give_the_same_scores(options, tmp_path):
    saved = AnomalyDetector(**{**OPTIONS, **FIRST_VERSION, **options}).fit(noise(24))
    saved.save(tmp_path / "detector")
    to_first_version(tmp_path / "detector")
    loaded = AnomalyDetector.load(tmp_path / "detector")
    assert_same(loaded, saved, noise(5, seed=1))
    assert loaded.restarts_ == 0


def test_absent_fields_have_the_values_of_the_first_version():
    """Defaults have changed since then, and those that a file does contain are kept."""
    first = json.loads(Config().replace(**FIRST_VERSION).to_json())
    for group, names in NEW_FIELDS.items():
        for name in names:
            del first[group][name]
    found = Config.from_json(json.dumps(persistence._current(first)))
    assert found == Config().replace(**FIRST_VERSION)
    now = json.loads(Config().to_json())
    assert persistence._current(now) == now


# Entries that `save` does not write.


@pytest.fixture(scope="module")
def saved_by_score(tmp_path_factory):
    """A folder with a detector for every kind of score."""
    folder = tmp_path_factory.mktemp("by score")
    for score in ("image", "local", "both"):
        AnomalyDetector(**OPTIONS, score=score).fit(noise(24)).save(folder / score)
    return folder


@pytest.mark.parametrize(
    ("score", "entries"),
    [
        ("image", {"image_size": 0}),
        ("image", {"image_size": -16}),
        ("both", {"image_size": 0}),
        ("both", {"texture_channels": 0}),
        ("both", {"texture_channels": 2}),
        ("local", {"texture_channels": 0}),
        ("local", {"detail_size": 0}),
        ("local", {"detail_size": "large"}),
        ("local", {"detail_size": 200}),
        ("image", {"texture_channels": 3}),
    ],
    ids=str,
)
def test_wrong_entries_are_refused_in_one_line(score, entries, saved_by_score, tmp_path):
    shutil.copytree(saved_by_score / score, tmp_path / "detector")
    path = tmp_path / "detector" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    with pytest.raises(UsageError) as error:
        AnomalyDetector.load(tmp_path / "detector")
    assert "\n" not in str(error.value)
    assert str(tmp_path / "detector") in str(error.value)


# Folders that are not replaced. tests/test_detector.py has folders with other files.


@pytest.mark.parametrize("text", ["{}", "[]", "not JSON", json.dumps({"config": {}, "class_names": []})])
def test_the_configuration_of_another_program_is_kept(text, saved_by_score, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=f"needs a folder of its own. {tmp_path} holds config.json$"):
        AnomalyDetector.load(saved_by_score / "local").save(tmp_path)
    assert (tmp_path / "config.json").read_text() == text


@pytest.mark.parametrize("name", ["weights.npz", "encoder.keras"])
def test_a_file_of_the_user_with_a_name_of_ours_is_kept(name, saved_by_score, tmp_path):
    folder = shutil.copytree(saved_by_score / "local", tmp_path / "detector")
    (folder / name).write_text("mine")
    with pytest.raises(UsageError, match=f"needs a folder of its own. {folder} holds {name}$"):
        AnomalyDetector.load(saved_by_score / "image").save(folder)
    assert (folder / name).read_text() == "mine"


def test_a_detector_of_the_first_version_is_replaced(saved_by_score, tmp_path):
    folder = shutil.copytree(saved_by_score / "image", tmp_path / "detector")
    to_first_version(folder)
    AnomalyDetector.load(saved_by_score / "local").save(folder)
    assert AnomalyDetector.load(folder).fitted_config_.scoring.score == "local"


def test_a_mount_point_and_the_working_directory_are_refused(saved_by_score, tmp_path, monkeypatch):
    detector = AnomalyDetector.load(saved_by_score / "local")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"Received: {tmp_path}, the working directory"):
        detector.save(".")
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path)
    with pytest.raises(UsageError, match=f"Received: {tmp_path}, which is a mount point"):
        detector.save(tmp_path)


# Run directories.


def test_a_run_directory_gives_its_detector(saved_by_score, tmp_path):
    (tmp_path / "config.json").write_text(Config().to_json())
    with pytest.raises(UsageError, match="it is the directory of a run that has saved no detector yet$"):
        AnomalyDetector.load(tmp_path)
    shutil.copytree(saved_by_score / "local", tmp_path / "detector")
    assert_same(AnomalyDetector.load(tmp_path), AnomalyDetector.load(saved_by_score / "local"), noise(4))


# Copies.


def through_joblib(detector, folder):
    joblib.dump(detector, folder / "detector.joblib")
    return joblib.load(folder / "detector.joblib")


COPIES = {
    "pickle": lambda detector, folder: pickle.loads(pickle.dumps(detector)),
    "deepcopy": lambda detector, folder: copy.deepcopy(detector),
    "copy": lambda detector, folder: copy.copy(detector),
    "joblib": through_joblib,
}


class Named(AnomalyDetector):
    """A detector with an attribute of the user."""

    name = ""


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_a_detector_of_its_own(kind, saved_by_score, tmp_path):
    fitted = Named.load(saved_by_score / "both")
    fitted.set_params(epochs=7).name = "mine"
    found = COPIES[kind](fitted, tmp_path)
    assert_same(found, fitted, noise(5, seed=1))
    assert (type(found), found.name, found.config) == (Named, "mine", fitted.config)
    threshold = fitted.threshold_
    found.set_threshold(threshold + 1.0)
    assert fitted.threshold_ == threshold


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_of_an_unfitted_detector_is_unfitted(kind, tmp_path):
    found = COPIES[kind](AnomalyDetector(**OPTIONS), tmp_path)
    assert found.config == Config().replace(**OPTIONS)
    with pytest.raises(UsageError, match="call fit or load first"):
        found.decision_function(noise(2))


def test_a_pickle_brings_its_encoder(encoder_file, tmp_path):
    path = shutil.copy(encoder_file, tmp_path / "mine.keras")
    own = dict(encoder=str(path), freeze_encoder=True, image_size=16)
    fitted = AnomalyDetector(**{**OPTIONS, **own}).fit(noise(24))
    text = pickle.dumps(fitted)
    path.unlink()
    assert_same(pickle.loads(text), fitted, noise(5, seed=1))


def test_scikit_learn_clones_the_options(saved_by_score):
    found = sklearn.base.clone(AnomalyDetector.load(saved_by_score / "local"))
    assert found.config == AnomalyDetector.load(saved_by_score / "local").config
    assert "scorer_" not in vars(found)


def test_a_folder_with_a_pickle_is_not_loaded(saved_by_score, tmp_path):
    folder = shutil.copytree(saved_by_score / "image", tmp_path / "detector")
    (folder / "weights.npz").write_bytes(pickle.dumps({"means": np.zeros(3)}))
    with pytest.raises(UsageError, match="do not fit"):
        AnomalyDetector.load(folder)
