"""The front door: every way in gives the same scores, and a wrong way in is refused in one useful line."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import sklearn.covariance
import tensorflow as tf

import mcl_tf
from mcl_tf.data import arrays

OPTIONS = dict(
    encoder="small", width=0.25, projection_hidden=32, projection_dim=16, batch_size=8, calibration_fraction=0.25
)
COUNT = 24


def make_detector(**options):
    """A tiny detector; untrained unless `epochs` says otherwise, which takes a second instead of five."""
    return mcl_tf.AnomalyDetector(**{**OPTIONS, "epochs": 0, **options})


def noise(count, height=16, width=16, channels=3, seed=0):
    """Seeded random pictures: uint8 [count, height, width, channels]."""
    shape = (count, height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def tinted(count, seed=0):
    """Reddish (class 0) and bluish (class 1) noise in turns: uint8 [count, 16, 16, 3], int [count]."""
    labels = np.arange(count) % 2
    tint = np.array([[120, 0, 0], [0, 0, 120]], np.uint8)[labels][:, None, None]
    return noise(count, seed=seed) // 2 + tint, labels


def as_dataset(images, labels, form):
    """The same pictures as a dataset: "single" or "batched", "labels" if they come along."""
    dataset = tf.data.Dataset.from_tensor_slices((images, labels) if "labels" in form else images)
    return dataset.batch(5) if "batched" in form else dataset


FORMS = ["single", "batched", "single labels", "batched labels"]


class NoTraining(tf.keras.callbacks.Callback):
    """Fails at the first training step."""

    def on_train_batch_end(self, batch, logs=None):
        raise AssertionError("a finished training went on")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def trained(run_dir):
    """One class, two training steps, checkpoints in `run_dir`."""
    return make_detector(epochs=1, run_dir=str(run_dir)).fit(noise(COUNT))


@pytest.fixture(scope="module")
def untrained():
    """The same pictures and first weights as `trained`, no step."""
    return make_detector().fit(noise(COUNT))


@pytest.fixture(scope="module")
def labelled():
    """Two classes with names."""
    return make_detector().fit(*tinted(COUNT), class_names=["red", "blue"])


@pytest.fixture(scope="module")
def unlabelled():
    """The pictures of `labelled` as one class."""
    return make_detector().fit(tinted(COUNT)[0])


@pytest.fixture
def saved(labelled, tmp_path):
    labelled.save(tmp_path / "saved")
    return tmp_path / "saved"


# One seed, one result


def test_same_seed_trains_the_same(trained):
    again = make_detector(epochs=1).fit(noise(COUNT))
    images = noise(9, seed=1)
    # Equal to the bit where every sum runs in the same order; threads may leave the last digits open.
    np.testing.assert_allclose(again.calibration_scores_, trained.calibration_scores_, rtol=1e-5)
    np.testing.assert_allclose(again.decision_function(images), trained.decision_function(images), rtol=1e-5)


def test_other_seed_trains_otherwise(unlabelled):
    other = make_detector(seed=1).fit(tinted(COUNT)[0])
    images = noise(5, seed=1)
    assert not np.allclose(other.decision_function(images), unlabelled.decision_function(images), rtol=1e-2)


def test_training_moves_the_scores(trained, untrained):
    """Without this, two trainings that did nothing would count as equal."""
    images = noise(5, seed=1)
    assert not np.allclose(untrained.decision_function(images), trained.decision_function(images), rtol=1e-2)


def test_finished_run_is_taken_up_without_training(trained, run_dir):
    again = make_detector(epochs=1, run_dir=str(run_dir))
    again.fit(noise(COUNT), callbacks=lambda trainer: [NoTraining()])
    np.testing.assert_allclose(again.calibration_scores_, trained.calibration_scores_, rtol=1e-4)


# One picture, one score


@pytest.mark.parametrize("form", FORMS)
def test_arrays_and_datasets_fit_the_same(form, labelled, unlabelled):
    expected = labelled if "labels" in form else unlabelled
    found = make_detector().fit(as_dataset(*tinted(COUNT), form))
    # Which pictures are held out depends on their order, so that equal calibration scores mean equal order.
    np.testing.assert_allclose(found.calibration_scores_, expected.calibration_scores_, rtol=1e-5)
    images = noise(5, seed=1)
    np.testing.assert_allclose(found.distances(images), expected.distances(images), rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(16, 16), (9, 12), (40, 28)])
def test_arrays_and_datasets_score_the_same(form, size, trained):
    images = noise(7, *size, seed=1)
    found = trained.decision_function(as_dataset(images, np.arange(7), form))
    # Resized to the same bytes, whether in a batch or alone.
    np.testing.assert_allclose(found, trained.decision_function(images), rtol=1e-5)


def test_dataset_of_many_sizes(trained):
    """Every picture of a stream is resized on its own."""
    pictures = [noise(1, *size, seed=7)[0] for size in ((16, 16), (9, 12), (40, 28))]
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(pictures), output_signature=tf.TensorSpec([None, None, 3], tf.uint8)
    )
    expected = [trained.decision_function(picture[None])[0] for picture in pictures]
    np.testing.assert_allclose(trained.decision_function(dataset), expected, rtol=1e-5)


def test_other_sizes_are_resized_as_documented(trained):
    """Bilinear with antialiasing, rounded to whole values."""
    images = noise(4, 40, 28, seed=1)
    resized = np.round(tf.image.resize(images, (16, 16), antialias=True)).astype(np.uint8)
    np.testing.assert_allclose(trained.decision_function(images), trained.decision_function(resized), rtol=1e-5)


def grey_or_alpha(channels, count, seed):
    """Pictures of 1 or 4 channels and what they stand for: grey is repeated, alpha is dropped."""
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
    """One after the other with coloured ones, which the first batch must not rule out."""
    detector = mcl_tf.AnomalyDetector.load(saved)
    images, plain = grey_or_alpha(channels, 6, seed=1)
    expected = detector.decision_function(plain)
    images = images if form == "array" else as_dataset(images, None, form)
    np.testing.assert_allclose(detector.decision_function(images), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "image_size", "expected"), [((18, 20), 0, 20), ((8, 9), 0, 16), ((18, 20), 12, 12)]
)
def test_network_takes_the_size_of_the_pictures(shape, image_size, expected):
    """The longer side, at least 16, unless `image_size` says otherwise."""
    detector = make_detector(image_size=image_size).fit(noise(6, *shape))
    assert detector.scorer_.image_size == expected
    assert np.all(np.isfinite(detector.decision_function(noise(2, *shape, seed=1))))


def test_batches_change_nothing(untrained):
    """24 pictures as 5 batches, the last one partial, for the Gaussians and the scores."""
    batched = make_detector(scoring_batch_size=5).fit(noise(COUNT))
    images = noise(13, seed=1)
    # The Gaussians' sums run in another order, which the inverse covariance magnifies.
    np.testing.assert_allclose(batched.decision_function(images), untrained.decision_function(images), rtol=1e-3)


def test_no_pictures_no_scores(trained):
    for empty in (noise(0), as_dataset(noise(0), None, "single")):
        assert trained.decision_function(empty).shape == (0,)
        assert trained.predict(empty).shape == (0,)


# Scores against a second, plain computation


def reference_distances(detector, train, images):
    """Mahalanobis distances of 8 views by numpy alone, the network aside: float64 [n, 8]."""

    def embed(pictures):
        columns = []
        for k in range(4):
            for picture in (pictures, pictures[:, :, ::-1]):
                turned = np.rot90(picture, k, axes=(1, 2)) / np.float32(255)
                z = np.float64(detector.scorer_.network(turned, training=False))
                columns.append(z / np.linalg.norm(z, axis=-1, keepdims=True))
        return np.stack(columns, axis=1)

    shrinkage = detector.config.scoring.shrinkage
    fitted, scored = embed(train), embed(images)
    distances = np.zeros(scored.shape[:2])
    for view in range(8):
        x = fitted[:, view // 2 * 2 : view // 2 * 2 + 2].reshape(-1, fitted.shape[-1])
        if shrinkage == "ledoit_wolf":
            covariance = sklearn.covariance.LedoitWolf().fit(x).covariance_
        else:
            covariance, share = np.cov(x.T), shrinkage or 0.0
            target = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
            covariance = (1 - share) * covariance + share * target
        centred = scored[:, view] - x.mean(axis=0)
        precision = np.linalg.inv(covariance + 1e-9 * np.eye(len(covariance)))
        distances[:, view] = np.sqrt(np.einsum("nd,de,ne->n", centred, precision, centred))
    return distances


SCORES = {
    "weighted": lambda distances: 1 / np.mean(1 / distances, axis=1),
    "mean": lambda distances: distances.sum(axis=1),
    "min": lambda distances: distances.min(axis=1),
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "mean"},
        {"method": "min"},
        {"views": 4},
        {"views": 1},
        {"shrinkage": 0.1},
        {"shrinkage": None},
        {"embedding": "projection"},
        {"embedding": "projection", "views": 4, "method": "mean", "shrinkage": 1.0},
    ],
    ids=lambda options: ",".join(map(str, options.values())) or "default",
)
def test_scoring_options(options):
    # No share of the 24 pictures is too small for one to be held out: all but one make 46 embeddings a rotation,
    # more than their 16 dimensions, so that a covariance without shrinkage has an inverse.
    detector = make_detector(**options, calibration_fraction=0.01).fit(noise(COUNT))
    scoring = detector.config.scoring
    held_out = arrays.hold_out(np.zeros(COUNT, int), detector.config.data)
    images = noise(6, seed=1)
    expected = reference_distances(detector, noise(COUNT)[~held_out], images)
    expected = expected[:, {8: slice(None), 4: slice(0, 8, 2), 1: slice(0, 1)}[scoring.views]]
    distances = detector.distances(images)
    assert distances.shape == (6, scoring.views, 1)
    # Embeddings are float32 on both sides, and the inverse of a small variance magnifies their last digits.
    np.testing.assert_allclose(distances[..., 0], expected, rtol=1e-3)
    np.testing.assert_allclose(detector.decision_function(images), SCORES[scoring.method](expected), rtol=1e-3)
    again = detector.decision_function(noise(COUNT)[held_out])
    np.testing.assert_allclose(detector.calibration_scores_, again, rtol=1e-5)


def test_scores_are_not_constant(trained):
    """A collapsed network or lost Gaussians give every picture the same score."""
    scores = trained.decision_function(noise(20, seed=1))
    assert np.std(scores) > 0.01 * np.mean(scores)


# Threshold


def test_predict_is_score_above_threshold(trained):
    images = np.concatenate([noise(COUNT), noise(4, seed=1) // 8])
    found = trained.predict(images)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, trained.decision_function(images) > trained.threshold_)
    assert set(found) == {0, 1}


@pytest.mark.parametrize("pass_rate", [0.0, 0.5, 0.95])
def test_threshold_lets_the_pass_rate_pass(pass_rate):
    detector = make_detector(pass_rate=pass_rate).fit(noise(COUNT))
    scores = detector.calibration_scores_
    assert scores.shape == (6,)  # a quarter of 24
    assert np.mean(scores <= detector.threshold_) >= pass_rate
    # It is the smallest such score: under it, fewer than the pass rate would pass.
    assert detector.threshold_ in scores
    assert np.mean(scores < detector.threshold_) <= pass_rate


# Classes


def test_every_class_has_its_own_gaussians(labelled):
    """Distances to a class are those to Gaussians of that class's pictures alone."""
    train, labels = tinted(COUNT)
    fitted = ~arrays.hold_out(labels, labelled.config.data)
    images = noise(6, seed=1)
    distances = labelled.distances(images)
    assert distances.shape == (6, 8, 2)
    for label in range(2):
        expected = reference_distances(labelled, train[fitted & (labels == label)], images)
        # As above: float32 embeddings, magnified by the inverse of small variances.
        np.testing.assert_allclose(distances[..., label], expected, rtol=1e-3)


def test_class_names(labelled, unlabelled):
    assert labelled.class_names_ == ("red", "blue")
    assert labelled.config.data.labelled
    assert unlabelled.class_names_ == ("0",)
    assert not unlabelled.config.data.labelled
    assert make_detector().fit(*tinted(COUNT)).class_names_ == ("0", "1")


def test_class_names_as_an_array():
    names = np.array(["red", "blue"])
    assert make_detector().fit(*tinted(COUNT), class_names=names).class_names_ == ("red", "blue")


# Files


@pytest.mark.parametrize("options", [{}, {"embedding": "projection", "views": 4, "method": "min"}], ids=str)
def test_saved_detector_is_the_same(options, tmp_path):
    saved = make_detector(**options).fit(*tinted(COUNT), class_names=["red", "blue"])
    saved.save(tmp_path / "new" / "detector")
    loaded = mcl_tf.AnomalyDetector.load(tmp_path / "new" / "detector")
    images = noise(5, 20, 18, seed=1)
    np.testing.assert_array_equal(loaded.decision_function(images), saved.decision_function(images))
    np.testing.assert_array_equal(loaded.calibration_scores_, saved.calibration_scores_)
    assert loaded.threshold_ == saved.threshold_
    assert loaded.class_names_ == saved.class_names_
    assert loaded.config == saved.config


def test_saved_detector_holds_no_code(labelled, tmp_path):
    """JSON and arrays of plain numbers: loading them runs nothing, as a pickle would."""
    labelled.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "weights.npz"]
    json.loads((tmp_path / "config.json").read_text())
    with np.load(tmp_path / "weights.npz", allow_pickle=False) as arrays:
        assert {"means", "whitenings", "threshold", "network/0000"} <= set(arrays)
        assert {arrays[name].dtype.kind for name in arrays} == {"f"}


def test_save_replaces_a_detector(trained, labelled, tmp_path):
    trained.save(tmp_path)
    labelled.save(tmp_path)
    loaded = mcl_tf.AnomalyDetector.load(tmp_path)
    images = noise(5, seed=1)
    np.testing.assert_array_equal(loaded.decision_function(images), labelled.decision_function(images))
    assert len(list(tmp_path.iterdir())) == 2


# Refusals


def cases(table):
    """The rows of a table as parameters."""
    for name, row in table.items():
        yield pytest.param(*(row if isinstance(row, tuple) else (row,)), id=name)


def dataset(*parts):
    return tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else parts[0])


WRONG_PICTURES = {
    "float": (lambda: noise(4) / 255.0, "uint8.*Received: float64"),
    "int": (lambda: noise(4).astype(np.int32), "uint8.*Received: int32"),
    "one picture without batch": (lambda: noise(4)[0], r"\[n, h, w, c\].*Received: uint8 \[16, 16, 3\]"),
    "two channels": (lambda: noise(4)[..., :2], r"c = 1, 3 or 4.*Received: uint8 \[4, 16, 16, 2\]"),
    "a path": (lambda: "pictures", "uint8.*Received"),
    "nothing": (lambda: None, "uint8.*Received"),
    "no pixels": (lambda: noise(4, height=0), "Received: uint8"),
    "two sizes": (lambda: [noise(1)[0], noise(1, 9, 9)[0]], "Received"),
    "dataset of float": (lambda: dataset(np.float32(noise(4))), "uint8.*Received: float32"),
    "dataset of rows": (lambda: dataset(noise(4)[0, 0]), "uint8.*Received"),
    "dataset of dicts": (lambda: dataset({"image": noise(4)}), "uint8.*Received"),
}


@pytest.mark.parametrize(("images", "message"), cases(WRONG_PICTURES))
def test_what_are_no_pictures(images, message, unlabelled):
    for use in (make_detector().fit, unlabelled.decision_function, unlabelled.predict):
        with pytest.raises(mcl_tf.UsageError, match=message):
            use(images())


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("form", ["array", "single", "batched"])
def test_too_few_pictures(count, form):
    images = noise(count) if form == "array" else as_dataset(noise(count), None, form)
    with pytest.raises(mcl_tf.UsageError, match=r"no pictures|at least two normal pictures\. Received: [01]"):
        make_detector().fit(images)


WRONG_LABELS = {
    "too few": (lambda y: {"labels": y[:5]}, r"24 pictures need as many.*\(5,\)"),
    "one-hot": (lambda y: {"labels": np.eye(2, dtype=int)[y]}, r"24 pictures need as many.*\(24, 2\)"),
    "float": (lambda y: {"labels": y + 0.5}, "integer labels.*float64"),
    "gap": (lambda y: {"labels": 2 * y}, r"0 to C - 1.*Received: \[0, 2\]"),
    "negative": (lambda y: {"labels": y - 1}, r"0 to C - 1.*Received: \[-1, 0\]"),
    "too few names": (lambda y: {"labels": y, "class_names": ["red"]}, "2 classes.*Received: red"),
    "numbers for names": (lambda y: {"labels": y, "class_names": [5]}, "2 classes.*Received: 5"),
    "names without labels": (lambda y: {"class_names": ["red", "blue"]}, "1 class.*Received: red, blue"),
}


@pytest.mark.parametrize(("arguments", "message"), cases(WRONG_LABELS))
def test_wrong_labels(arguments, message):
    images, labels = tinted(COUNT)
    with pytest.raises(mcl_tf.UsageError, match=message):
        make_detector().fit(images, **arguments(labels))


@pytest.mark.parametrize(
    "change", [lambda y: y + 0.5, lambda y: np.array(["red", "blue"])[y]], ids=["float", "words"]
)
def test_wrong_labels_in_a_dataset(change):
    """As strict as with arrays: 0.5 is not rounded to a class."""
    images, labels = tinted(COUNT)
    with pytest.raises(mcl_tf.UsageError, match="integer labels.*Received"):
        make_detector().fit(as_dataset(images, change(labels), "single labels"))


def test_labels_beside_a_dataset():
    images, labels = tinted(COUNT)
    with pytest.raises(mcl_tf.UsageError, match="dataset brings its labels.*Received"):
        make_detector().fit(as_dataset(images, labels, "single labels"), labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encodr": "small"}, "Possible: .*encoder.*Received: encodr"),
        ({"encoder": "vgg"}, "encoder must be small.*Received: 'vgg'"),
        ({"views": 3}, "views must be 1, 4 or 8.*Received: 3"),
        ({"shrinkage": 1.5}, "shrinkage must be .*from 0 to 1.*Received: 1.5"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(mcl_tf.UsageError, match=message):
        mcl_tf.AnomalyDetector(**options)


@pytest.mark.parametrize(
    "use",
    [
        lambda detector, path: detector.predict(noise(2)),
        lambda detector, path: detector.decision_function(noise(2)),
        lambda detector, path: detector.distances(noise(2)),
        lambda detector, path: detector.threshold_,
        lambda detector, path: detector.save(path / "it"),
        lambda detector, path: detector.export(path / "it"),
    ],
    ids=["predict", "decision_function", "distances", "threshold", "save", "export"],
)
def test_use_before_fit(use, tmp_path):
    with pytest.raises(mcl_tf.UsageError, match="fit or load first"):
        use(make_detector(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_failed_fit_leaves_no_detector(monkeypatch):
    """A network without Gaussians must not score."""
    detector = make_detector()

    def fail(*arguments):
        raise mcl_tf.UsageError("no Gaussians")

    monkeypatch.setattr(detector, "fit_gaussians", fail)
    with pytest.raises(mcl_tf.UsageError, match="no Gaussians"):
        detector.fit(noise(COUNT))
    with pytest.raises(mcl_tf.UsageError, match="fit or load first"):
        detector.predict(noise(2))


def test_a_class_of_one_picture_is_trained_on():
    """The share held out is taken of every class and leaves each at least one picture."""
    labels = np.zeros(COUNT, int)
    labels[3] = 1
    detector = make_detector().fit(noise(COUNT), labels)
    assert detector.class_names_ == ("0", "1")
    assert np.isfinite(detector.decision_function(noise(2))).all()


def test_second_fit_forgets_the_first():
    """Without labels `beta` is 1 / temperature, whatever was fitted before."""
    detector = make_detector().fit(*tinted(COUNT))
    detector.fit(tinted(COUNT)[0])
    assert detector.class_names_ == ("0",)
    assert not detector.config.data.labelled


# Damaged folders


@pytest.mark.parametrize("make", [lambda path: None, pathlib.Path.mkdir, pathlib.Path.touch])
def test_load_where_there_is_nothing(make, tmp_path):
    make(tmp_path / "empty")
    with pytest.raises(mcl_tf.UsageError, match="no detector in .*empty"):
        mcl_tf.AnomalyDetector.load(tmp_path / "empty")


def changed(**facts):
    """The text of a config.json with some entries replaced."""
    return lambda text: json.dumps({**json.loads(text), **facts}).encode()


def changed_option(group, **options):
    """The text of a config.json with some options replaced."""

    def change(text):
        facts = json.loads(text)
        facts["config"][group].update(options)
        return json.dumps(facts).encode()

    return change


DAMAGED_CONFIGS = {
    "empty": lambda text: b"",
    "cut off": lambda text: text[:100].encode(),
    "no text": lambda text: b"\xff\xfe\x00",
    "no object": lambda text: b"[]",
    "no entries": lambda text: b"{}",
    "config no object": changed(config=[1]),
    "unknown option": changed_option("model", depth=3),
    "option out of range": changed_option("scoring", views=3),
    "class_names a number": changed(class_names=5),
    "class_names missing": changed(class_names=None),
    "image_size a word": changed(image_size="large"),
    "image_size zero": changed(image_size=0),
    "calibration_scores a word": changed(calibration_scores="low"),
}


@pytest.mark.parametrize(
    "damage",
    cases(DAMAGED_CONFIGS),
)
def test_load_a_damaged_config(damage, saved):
    config = saved / "config.json"
    config.write_bytes(damage(config.read_text()))
    with pytest.raises(mcl_tf.UsageError, match="no detector in .*saved"):
        mcl_tf.AnomalyDetector.load(saved)


def without_an_array(path):
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
    "one array missing": without_an_array,
    "a pickle": lambda path: path.write_bytes(b"\x80\x04N."),
}


@pytest.mark.parametrize("damage", cases(DAMAGED_WEIGHTS))
def test_load_damaged_weights(damage, saved):
    damage(saved / "weights.npz")
    with pytest.raises(mcl_tf.UsageError, match="weights in .*saved"):
        mcl_tf.AnomalyDetector.load(saved)


def test_load_weights_of_another_network(saved, trained, tmp_path):
    """One class instead of two: no array of the Gaussians fits."""
    trained.save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "weights.npz", saved)
    with pytest.raises(mcl_tf.UsageError, match="weights in .*saved"):
        mcl_tf.AnomalyDetector.load(saved)
