"""`augment`: the rate of rotation and augmentation, compared with the rate at which the training step takes views."""

from __future__ import annotations

from benchmarks import step, subjects
from benchmarks.measure import rate_row, time_sides


def rows(repeats: int = 15):
    """Yield the rows."""
    for name in ("small", "resnet18"):
        config = subjects.configuration(name)
        whole, _, views = step.sides(config)
        seconds = time_sides({"augment": augmentation(config), "step": whole}, repeats)
        comparison = "views from the augmentation / views that the step takes"
        yield rate_row(f"augment {name}", comparison, seconds, "augment", "step", views, "views/s")


def augmentation(config):
    """Return a function that rotates and augments a batch of the configuration."""
    import tensorflow as tf

    from mcl_tf import views
    from mcl_tf.replicas import Replicas
    from mcl_tf.training.trainer import build_model

    model = build_model(config, subjects.SIZE)
    images = tf.constant(subjects.random_images(config.training.batch_size))
    labels = tf.zeros([len(images)], tf.int32)

    @tf.function(autograph=False)
    def augment():
        rotations, _ = views.instances(labels)
        augmented = model.augment(views.to_float(images), rotations, tf.constant(1, tf.int64), Replicas.current())
        return augmented[0, 0, 0, 0], augmented

    return lambda: augment()[0].numpy()
