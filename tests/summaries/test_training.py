"""What TensorBoard shows of a training; test_callbacks.py runs the callbacks in real loops."""

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mcl_tf import scored_test
from mcl_tf.config import AugmentationConfig
from mcl_tf.summaries import training
from mcl_tf.summaries.event_file import EventFile
from tests.helpers import tinted_images
from tests.summaries.events import attached, read_curves, read_summaries
from tests.training.training_helpers import InterruptAfter, make_trainer, state_of

LOGS = {
    **{"loss": 3.0, "ccm": 1.0, "spa": 2.0, "rotation": 0.0},
    **{"positive_similarity": 0.5, "negative_similarity": 0.25, "without_partner": 0.125, "uniformity": -1.5},
}


class Clock:
    """A clock whose every look takes a second."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        self.now += 1.0
        return self.now


def test_every_curve_has_its_group_and_its_step(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(training, "time", clock)
    callback = attached(training.TrainingCurves(EventFile(tmp_path)), batch_size=8)
    for epoch in range(2):
        for batch in range(3):
            callback.on_train_batch_begin(batch)
            callback.model.optimizer.iterations = 10 * (epoch + 1)
            callback.on_train_batch_end(batch, LOGS)
            clock.now += 1000.0  # of another callback, which is no part of a step
        callback.model.optimizer.learning_rate = 0.25 * (epoch + 1)
        callback.on_epoch_end(epoch, LOGS)
    callback.on_train_end()
    constant = {
        **{"loss/total": 3.0, "loss/ccm": 1.0, "loss/spa": 2.0},  # without a classifier, there is no loss of rotations
        **{"similarity/positive": 0.5, "similarity/negative": 0.25, "similarity/uniformity": -1.5},
        "similarity/alignment": 1.0,  # the squared distance of vectors of length 1 with a cosine of 0.5
        "training/share_of_anchors_without_partner": 0.125,
        "speed/milliseconds_per_step": 1000.0,
        "speed/images_per_second": 8.0,
    }
    curves = read_curves(tmp_path)
    assert curves.pop("training/learning_rate") == [(10, 0.25), (20, 0.5)]
    assert curves == {name: [(10, value), (20, value)] for name, value in constant.items()}


def test_points_come_within_an_epoch_and_once_per_step(tmp_path):
    callback = attached(training.TrainingCurves(EventFile(tmp_path)))
    for batch in range(300):
        callback.model.optimizer.iterations = batch + 1
        callback.on_train_batch_begin(batch)
        callback.on_train_batch_end(batch, {"loss": 3.0})
    callback.on_epoch_end(0, {"loss": 3.0})
    callback.on_train_end()
    curves = read_curves(tmp_path)
    assert curves["loss/total"] == [(100, 3.0), (200, 3.0), (300, 3.0)]
    assert "speed/images_per_second" not in curves  # Keras' loop does not say the batch size


def test_a_sheet_has_every_image_beside_its_views():
    """Without flips and with mild crops, a bright quarter of an image turns as the image does."""
    images = np.zeros((2, 16, 16, 3), np.uint8)
    images[0, :8, :8], images[1, 8:, :8] = 255, 255
    mild = AugmentationConfig(flip_probability=0.0, crop_min_area=0.9, jitter_probability=0.0, grey_probability=0.0)
    sheet = training.view_sheet(images, mild, seed=0)
    assert sheet.shape == (2 * 17 - 1, 9 * 17 - 1, 3)
    assert np.all(sheet[16] == 1.0)
    for row, image in enumerate(images):
        cells = [sheet[17 * row : 17 * row + 16, 17 * column : 17 * column + 16] for column in range(9)]
        np.testing.assert_array_equal(cells[0], image / np.float32(255.0))
        for column, cell in enumerate(cells[1:]):  # two views of every rotation, side by side
            turned = np.rot90(image, column // 2)
            assert cell[turned == 255].mean() > 0.8
            assert cell[turned == 0].mean() < 0.2


def test_the_network_and_its_input_are_shown_at_the_start_alone(tmp_path):
    trainer = make_trainer(epochs=1)
    callback = training.TrainingOverview(EventFile(tmp_path), tinted_images(6)[0], AugmentationConfig(), seed=0)
    callback.set_model(trainer.model)
    trainer.model.optimizer.iterations.assign(5)
    callback.on_train_begin()
    assert list(tmp_path.iterdir()) == []
    trainer.model.optimizer.iterations.assign(0)
    callback.on_train_begin()
    ((step, (width, height, _)),) = read_summaries(tmp_path, "images")["views/augmented"]
    assert (step, int(width), int(height)) == (0, 9 * 17 - 1, 6 * 17 - 1)
    events = EventAccumulator(str(tmp_path)).Reload()
    names = {node.name.split("/")[0] for node in events.Graph().node}
    assert {"images"} < names
    assert any("projection_head" in name for name in names)


@pytest.mark.slow
def test_curves_change_no_weight_and_go_on_after_an_interruption(tmp_path):
    expected = make_trainer()
    expected.fit()

    def fit(trainer, *more):
        file = EventFile(tmp_path / "train")
        overview = training.TrainingOverview(file, trainer.images[:2], AugmentationConfig(), seed=0)
        profile = training.Profile(tmp_path / "profile", 2, 3)
        trainer.fit([overview, training.TrainingCurves(file), profile, *more])

    with pytest.raises(KeyboardInterrupt):
        fit(make_trainer(tmp_path, checkpoint_every=1), InterruptAfter(7))
    resumed = make_trainer(tmp_path, checkpoint_every=1)
    fit(resumed)
    for mine, theirs in zip(state_of(resumed), state_of(expected), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert [step for step, _ in read_curves(tmp_path / "train")["loss/total"]] == [5, 10, 15]
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 0


def test_steps_that_are_not_trained_are_not_profiled(tmp_path, library_log):
    callback = attached(training.Profile(tmp_path / "profile", 6, 9))
    for step in range(5):
        callback.model.optimizer.iterations = step
        callback.on_train_batch_begin(step)
        callback.on_train_batch_end(step)
    callback.on_train_end()
    assert library_log.messages == [
        "No step was profiled, because this start trained none of the steps 6 to 9.",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_profile_that_cannot_be_taken_is_a_warning(tmp_path, library_log, monkeypatch):
    def start(folder):
        raise OSError(28, "No space left on device", folder)

    monkeypatch.setattr(training.tf.profiler.experimental, "start", start)
    callback = attached(training.Profile(tmp_path, 1, 5), step=0)
    for step in range(3):
        callback.model.optimizer.iterations = step
        callback.on_train_batch_begin(step)
        callback.on_train_batch_end(step)
    callback.on_train_end()
    assert len(library_log.messages) == 1
    assert "takes no profile" in library_log.messages[0]
    assert "No space left on device" in library_log.messages[0]


def test_evaluation_comes_every_few_epochs(tmp_path):
    models, is_anomaly = [], np.arange(8) % 2 == 1
    names = np.arange(8).astype(str)

    def evaluate(model):
        models.append(model)
        one_view = np.linspace(0.0, 1.0, 8, dtype=np.float32)
        return scored_test.TestScores(names, names, is_anomaly, one_view, one_view + is_anomaly)

    callback = attached(training.PeriodicEvaluation(EventFile(tmp_path), evaluate, every=2))
    for epoch in range(5):
        callback.model.optimizer.iterations = 10 * epoch
        callback.on_epoch_end(epoch)
    callback.on_train_end()
    curves = read_curves(tmp_path)
    assert curves["quality/auroc_one_view"] == [(10, 0.625), (30, 0.625)]  # 10 of 16 pairs
    assert curves["quality/auroc_sei"] == [(10, 1.0), (30, 1.0)]
    assert set(read_summaries(tmp_path, "histograms")) == {"scores/normal", "scores/anomalous"}
    assert models == [callback.model] * 2


def test_the_network_of_several_replicas_is_shown(tmp_path, two_replicas, monkeypatch):
    monkeypatch.setattr("mcl_tf.training.trainer.make_strategy", lambda strategy: two_replicas)
    callback = training.TrainingOverview(EventFile(tmp_path), tinted_images(2)[0], AugmentationConfig(), seed=0)
    callback.set_model(make_trainer(epochs=1).model)
    callback.on_train_begin()
    assert [step for step, _ in read_summaries(tmp_path, "images")["views/augmented"]] == [0]
    assert len(EventAccumulator(str(tmp_path)).Reload().Graph().node) > 10
