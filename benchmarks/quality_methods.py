"""What benchmarks/quality.py compares: the product, rotation prediction, a plain classifier, simple features.

Every function takes a configuration and a task and returns ({name of a score: scores of the test images}, what is
noted beside them).
"""

from __future__ import annotations

import time

import numpy as np


def mcl(config, task):
    """Score of the product."""
    from mcl_tf import AnomalyDetector
    from mcl_tf.scoring import self_ensemble

    clock = _Clock()
    detector = AnomalyDetector(config, image_size=task.image_size, detail_size=task.detail_size)
    labels = task.train_labels if config.data.labelled else None
    detector.fit(task.train, labels, class_names=task.class_names, callbacks=[clock], verbose=0)
    start = time.perf_counter()
    outputs = detector.scorer_.evaluate_images(task.test, visible=False)
    seconds = time.perf_counter() - start
    scores = {"score": outputs["score"]}
    for name, distances in (("one view", outputs["distances"][:, :1]), ("SEI", outputs["distances"])):
        scores[name] = self_ensemble(distances, config.scoring.method)[0].numpy()
    trained = round(getattr(clock, "seconds", 0.0), 1)
    return scores, {"seconds": trained, "images_per_second": round(len(outputs["score"]) / seconds, 1)}


def rotation(config, task):
    """Rotation prediction (RotNet) with the same encoder, augmentation, optimizer and number of steps.

    The score is the mean negative log-probability of the true rotation over the eight views.
    """
    import tensorflow as tf

    from mcl_tf import views
    from mcl_tf.model import MaskedContrastiveModel

    class RotationPrediction(MaskedContrastiveModel):
        def contrastive_loss(self, projections, labels, rotations, step, replicas):
            loss, metrics = super().contrastive_loss(projections, labels, rotations, step, replicas)
            return 0.0 * loss, {**metrics, "loss": 0.0 * loss}

    model, seconds = _trained(config.replace(rotation_weight=1.0), task, RotationPrediction)
    rotations = tf.constant(views.view_rotations(8))

    def score(images):
        flat = views.self_ensemble_views(images, 8)
        logits = model.rotation_head(model.encoder(flat, training=False), training=False)
        wanted = tf.tile(rotations, [tf.shape(images)[0]])
        nll = tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, logits)
        return tf.reduce_mean(tf.reshape(nll, [-1, 8]), axis=1)

    return {"score": _scores(score, config, task)}, {"seconds": seconds}


def classifier(config, task):
    """Cross-entropy of the labels with the same encoder, optimizer, and numbers of steps and of views per step.

    The score is 1 minus the largest probability of the upright image (Hendrycks and Gimpel, ICLR 2017,
    arXiv:1610.02136). Augmentation is the same but for rotations.
    """
    import tensorflow as tf

    from mcl_tf.model import METRICS, MaskedContrastiveModel

    class Classifier(MaskedContrastiveModel):
        def contrastive_loss(self, projections, labels, rotations, step, replicas):
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.tile(labels, [2]), projections)
            loss = tf.reduce_mean(losses)
            return loss, dict.fromkeys(METRICS, loss)

    rate = config.in_force()["learning_rate"]
    # As many views per step; the learning rate of a step grows with the number of images.
    batch_size = 4 * config.training.batch_size
    config = config.replace(rotations=False, batch_size=batch_size, learning_rate=rate / 4)
    head = tf.keras.layers.Dense(len(task.class_names), kernel_initializer=tf.keras.initializers.GlorotUniform(seed=0))
    model, seconds = _trained(config, task, Classifier, head)

    def score(images):
        probabilities = tf.nn.softmax(model(images, training=False))
        return 1.0 - tf.reduce_max(probabilities, axis=1)

    return {"confidence": _scores(score, config, task)}, {"seconds": seconds}


def _trained(config, task, model_class, head=None):
    """Train a model of another loss as the product trains its own; return it and the seconds of its training.

    Args:
      config: the configuration.
      task: the images.
      model_class: a subclass of `MaskedContrastiveModel`.
      head: what follows the encoder instead of the projection head.
    """
    import tensorflow as tf

    from mcl_tf.data import arrays
    from mcl_tf.data.batches import training_batches
    from mcl_tf.normal_images import select_held_out
    from mcl_tf.training import optimizers
    from mcl_tf.training.trainer import Trainer

    kept = ~select_held_out(task.train_labels, config)
    images, labels = arrays.resize(task.train[kept], task.image_size), task.train_labels[kept]
    trainer = Trainer(config, images, labels)
    base = trainer.model
    if head is not None:
        head = tf.keras.Sequential([tf.keras.layers.Input(base.encoder.output_shape[1:]), head])
    settings = (base.loss_config, base.augmentation_config, base.weight_decay, base.seed)
    model = model_class(base.encoder, head or base.projection_head, *settings, clip_norm=base.clip_norm)
    steps = trainer.steps_per_epoch
    schedule = optimizers.make_schedule(config.training, trainer.batch_size, trainer.total_steps, steps)
    model.compile(optimizer=optimizers.make_optimizer(config.training, schedule), jit_compile=False)
    clock = _Clock()
    batches = training_batches(images, labels, trainer.batch_size, config.data.seed)
    model.fit(batches, epochs=trainer.epochs, steps_per_epoch=steps, verbose=0, callbacks=[clock], shuffle=False)
    return model, round(clock.seconds, 1)


def _scores(score, config, task):
    """Return the scores of the test images.

    Args:
      score: function from images float32 [n, s, s, 3] in [0, 1] to [n].
      config: the configuration.
      task: the images.
    """
    import tensorflow as tf

    from mcl_tf import views

    @tf.function
    def compute(images):
        images = views.to_float(views.prepare(images, task.image_size))
        areas = [score(views.central(images, area)) for area in config.scoring.view_areas]
        return tf.reduce_mean(tf.stack(areas), axis=0)

    return np.concatenate([compute(batch).numpy() for batch in task.test.map(lambda image, *_: image).batch(64)])


def features(config, task):
    """Score by the distance to the nearest training image, of two simple features."""
    from mcl_tf.tables.baselines import nearest_neighbours, standardized

    test = np.stack([image for image, *_ in task.test.as_numpy_iterator()])
    scores = {}
    for name, function in (("grey levels", grey_levels), ("HOG", hog)):
        scores[name] = nearest_neighbours(*standardized(function(task.train), function(test)))
    return scores, {}


def grey_levels(images):
    """Mean, standard deviation and percentiles of every image's grey levels."""
    grey = images.astype(np.float32).mean(-1).reshape(len(images), -1)
    percentiles = np.percentile(grey, (1, 5, 25, 50, 75, 95, 99), axis=1).T
    return np.column_stack([grey.mean(1), grey.std(1), percentiles])


def hog(images, cells: int = 8, bins: int = 9):
    """Histograms of oriented gradients (Dalal and Triggs, CVPR 2005) in cells x cells cells, normalized per cell."""
    grey = images.astype(np.float32).mean(-1)
    rows, columns = np.gradient(grey, axis=(1, 2))
    strength = np.hypot(rows, columns)
    orientation = ((np.arctan2(rows, columns) % np.pi) / np.pi * bins).astype(int) % bins
    side = grey.shape[1] // cells * cells
    features = []
    for index in range(bins):
        part = np.where(orientation == index, strength, 0.0)[:, :side, :side]
        features.append(part.reshape(len(grey), cells, side // cells, cells, side // cells).sum((2, 4)))
    histogram = np.stack(features, -1)
    return (histogram / (np.linalg.norm(histogram, axis=-1, keepdims=True) + 1.0)).reshape(len(grey), -1)


class _Clock:
    """Keras callback that measures the time of the training loop."""

    def __new__(cls):
        import tensorflow as tf

        class Clock(tf.keras.callbacks.Callback):
            def on_train_begin(self, logs=None):
                self.start = self.seconds = time.perf_counter()

            def on_train_batch_end(self, batch, logs=None):
                self.seconds = time.perf_counter() - self.start

        return Clock()
