"""`augment`: views a second out of rotation and augmentation, against what the training step needs."""

from __future__ import annotations

from benchmarks import step, subjects
from benchmarks.measure import rate, times


def rows(repeats: int = 15):
    """Yields the rows."""
    for name in ("small", "resnet18"):
        config = subjects.configuration(name)
        whole, _, views = step.sides(config)
        found = times({"augment": augment(config), "step": whole}, repeats)
        what = "views out of the augmentation / views that the step takes"
        yield rate(f"augment {name}", what, found, "augment", "step", views, "views/s")


def augment(config):
    """Rotation and augmentation of a batch of the configuration."""
    import tensorflow as tf

    from mcl_tf import views
    from mcl_tf.replicas import Replicas
    from mcl_tf.training.trainer import build_model

    model = build_model(config, subjects.SIDE)
    pictures = tf.constant(subjects.pictures(config.training.batch_size))
    labels = tf.zeros([len(pictures)], tf.int32)

    @tf.function(autograph=False)
    def augmented():
        rotations, _ = views.instances(labels)
        images = views.to_float(pictures)
        found = model.augment(images, rotations, tf.constant(1, tf.int64), Replicas.current())
        return found[0, 0, 0, 0], found

    return lambda: augmented()[0].numpy()
