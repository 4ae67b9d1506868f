"""Two runs as TensorBoard sees them."""

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import experiment, scored_test
from mcl_tf.config import Config
from mcl_tf.data.tasks import Task
from mcl_tf.detector import AnomalyDetector
from mcl_tf.summaries.result import write_result
from tests.helpers import DETECTOR_OPTIONS, make_once, mixed_images, tinted_images


def make_task():
    """Noise with a tint as training images; every third of 30 test images is of another colour."""
    images, is_anomaly = mixed_images(30, 16, 16, seed=1), np.arange(30) % 3 == 2
    names, labels = [f"test/{index}\t.png" for index in range(30)], np.where(is_anomaly, "green", "red, blue")
    test = tf.data.Dataset.from_tensor_slices((images, is_anomaly, names, labels))
    return Task(("tinted",), 16, 16, tinted_images(24)[0], np.zeros(24, np.int32), test)


def run(folder, **options):
    """Make a run that leaves nothing but what TensorBoard reads; return (detector, test scores)."""
    task = make_task()
    config = Config().replace(**{**DETECTOR_OPTIONS, "checkpoint_minutes": 0.0, **options}, run_dir=str(folder))
    callbacks = experiment.training_callbacks(config, task, folder)
    detector = AnomalyDetector(config, image_size=16, detail_size=16)
    detector.fit(task.train, class_names=task.class_names, callbacks=callbacks)
    scores = scored_test.score_test(detector.scorer_, task.test)
    write_result(detector, task.test, scores, experiment.make_report(detector, task, scores), folder / "result")
    return detector, scores


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """A folder with two runs of a table: seed 0, with an evaluation within a training of two steps, and seed 1."""

    def fill(folder):
        run(folder / "tinted" / "seed-0", seed=0, epochs=2, evaluate_every=2)
        run(folder / "tinted" / "seed-1", seed=1)

    return make_once(tmp_path_factory, "runs_for_tensorboard", fill)
