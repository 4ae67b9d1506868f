"""What is found: AUROC of presets on CIFAR-10 and folders, beside rotation prediction and simple features.

python -m benchmarks.quality --preset=cpu_quick --seeds=1,2,3 --data_dir=DIR   ten classes of CIFAR-10
python -m benchmarks.quality --preset=folder --dataset=DIR --normal=good       a folder, each kind of anomaly by itself
python -m benchmarks.quality --preset=cpu_quick --splits=5 --known_classes=6 --seeds=1 --methods=mcl,classifier \
    --options='--labelled --max_steps=1000' --data_dir=DIR                     labelled classes against the others
python -m benchmarks.quality --table                                           writes benchmarks/quality.md again

Results are appended to benchmarks/quality.jsonl, one line per run, as they come; a run that is there is not repeated.
Settings were chosen on classes 0, 3, 5 and 8 with seed 0, and on the folders with seed 0. The tables hold other seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shlex
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np

from benchmarks.measure import run_in_process

HERE = pathlib.Path(__file__).parent
PRESETS = HERE.parent / "flags" / "presets"
RESULTS, TABLE = HERE / "quality.jsonl", HERE / "quality.md"
# Method: what its rows begin with.
LABELS = {
    "mcl": "mcl_tf, ",
    "rotation": "rotation prediction, ",
    "classifier": "classifier, ",
    "features": "nearest neighbours on ",
}
INTRODUCTION = """# What is found
AUROC x 100, written by `python -m benchmarks.quality` from benchmarks/quality.jsonl; its docstring says how to measure
again. Every value is the mean over the seeds; `worst seed` is the smallest of all. `score` is what the product reports,
`SEI` its self-ensemble of distances alone, `one view` the distance of the upright image alone. Rotation prediction has
the same encoder, augmentation, optimizer and number of steps. Nearest neighbours are five, on standardized features.
Where training was labelled, a column is a split into known classes and others, and `classifier` is a plain one with the
same encoder, augmentation without rotations, optimizer, and numbers of steps and of views per step; its score is 1
minus the largest probability.
"""


def main() -> int:
    """Run what is asked for and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", default="cpu_quick", help="name of a file in flags/presets")
    parser.add_argument("--dataset", default="cifar10", help="cifar10, another dataset, or a folder")
    parser.add_argument("--normal", default="", help="normal classes, each by itself; all of a dataset by default")
    parser.add_argument("--splits", type=int, default=0, help="random splits into known classes and others, instead")
    parser.add_argument("--known_classes", type=int, default=6, help="known classes of a split")
    parser.add_argument("--seeds", default="1,2,3", help="comma-separated seeds")
    parser.add_argument("--data_dir", default="", help="directory of TensorFlow Datasets")
    parser.add_argument("--methods", default="mcl,rotation,features", help=f"of {', '.join(LABELS)}")
    parser.add_argument("--options", default="", help="further flags for the preset, e.g. '--image_size=96'")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, help="file of the results, JSON lines")
    parser.add_argument("--table", action="store_true", help="only write the table")
    options = parser.parse_args()
    if not options.table:
        normal = options.normal.split(",") if options.normal else [str(number) for number in range(10)]
        if options.splits:
            normal = _splits(options.splits, options.known_classes, normal)
        for seed in map(int, options.seeds.split(",")):
            for name in normal:
                for method in options.methods.split(","):
                    _run_once(options, method, name, seed)
    if options.results == RESULTS:
        TABLE.write_text(table(read(RESULTS)))
    return 0


def _run_once(options, method: str, normal: str, seed: int) -> None:
    """Run one method on one class, unless the result is there."""
    dataset = pathlib.Path(options.dataset).name
    key = {"dataset": dataset, "normal": normal, "seed": seed, "method": method, "preset": options.preset}
    key["options"] = options.options
    if method == "features":
        key.update(seed=0, preset="", options="")  # neither matters
    if any(all(row.get(name) == value for name, value in key.items()) for row in read(options.results)):
        return
    arguments = [f"--flagfile={PRESETS / options.preset}.flags", f"--dataset={options.dataset}", f"--normal={normal}"]
    arguments += [f"--seed={seed}", f"--data_dir={options.data_dir}", *shlex.split(options.options)]
    result = run_in_process(run, method, arguments)
    with open(options.results, "a") as file:
        file.write(json.dumps({**key, **result}) + "\n")
    print(f"{dataset} {normal} seed {seed} {method} {options.preset}: {result}", flush=True)


def _splits(count: int, known: int, classes: list[str]) -> list[str]:
    """Return random splits as `--normal` takes them; those of a table of main.py with seed 0."""
    from mcl_tf.config import Config
    from mcl_tf.tables.plans import TableOptions, make_rows

    rows = make_rows(Config(), TableOptions(splits=count, known_classes=known), classes, range(len(classes)))
    return [",".join(row.normal) for row in rows]


def read(path: pathlib.Path) -> list[dict]:
    """Read the results."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(method: str, arguments: list[str]) -> dict:
    """Run one method with the flags of a command line; return its results."""
    import copy

    from absl import flags as absl_flags

    import flags
    from mcl_tf.data.tasks import build_task

    values = copy.deepcopy(absl_flags.FLAGS)
    values(["quality", *arguments])
    config = flags.config_from_flags(values)
    task = build_task(config.data, config.run.data_dir, score=config.scoring.score)
    columns = list(
        zip(*((is_anomaly, label) for _, is_anomaly, _, label in task.test.as_numpy_iterator()), strict=True)
    )
    is_anomaly, labels = np.array(columns[0]), np.array([label.decode() for label in columns[1]])
    measure = {"mcl": _mcl, "rotation": _rotation, "classifier": _classifier, "features": _features}[method]
    scores, result = measure(config, task)
    result["auroc"] = {name: _auroc(is_anomaly, values_) for name, values_ in scores.items()}
    kinds = sorted(set(labels[is_anomaly].tolist()))
    if len(kinds) <= 5 and not config.data.labelled:  # folders: every kind of defect by itself
        keep = {kind: ~is_anomaly | (labels == kind) for kind in kinds}
        result["by_kind"] = {
            kind: {name: _auroc(is_anomaly[rows], values_[rows]) for name, values_ in scores.items()}
            for kind, rows in keep.items()
        }
    return result


def _auroc(is_anomaly, scores) -> float:
    from sklearn.metrics import roc_auc_score

    return round(float(roc_auc_score(is_anomaly, scores)), 4)


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


def _mcl(config, task):
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


def _rotation(config, task):
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


def _classifier(config, task):
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


def _features(config, task):
    """Score by the distance to the nearest training image, of two simple features."""
    from mcl_tf.tables.baselines import nearest_neighbours, standardized

    test = np.stack([image for image, *_ in task.test.as_numpy_iterator()])
    scores = {}
    for name, function in (("grey levels", _grey_levels), ("HOG", _hog)):
        scores[name] = nearest_neighbours(*standardized(function(task.train), function(test)))
    return scores, {}


def _grey_levels(images):
    """Mean, standard deviation and percentiles of every image's grey levels."""
    grey = images.astype(np.float32).mean(-1).reshape(len(images), -1)
    percentiles = np.percentile(grey, (1, 5, 25, 50, 75, 95, 99), axis=1).T
    return np.column_stack([grey.mean(1), grey.std(1), percentiles])


def _hog(images, cells: int = 8, bins: int = 9):
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


def table(rows: list[dict]) -> str:
    """Return the results as Markdown."""
    parts = [INTRODUCTION]
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["preset"], row["options"]), []).append(row)
    features = {dataset: found for (dataset, preset, _), found in groups.items() if not preset}
    for (dataset, preset, options), found in groups.items():
        if preset:
            found = found + features.get(dataset, [])
            trained = [row for row in found if row["method"] == "mcl"]
            seeds = sorted({row["seed"] for row in trained})
            parts.append(f"## {dataset}, preset `{preset}`{' ' + options if options else ''}\n")
            parts.append(f"Seeds: {', '.join(map(str, seeds))}. {_trainings(trained)}\n")
            parts.append(_one_table(found))
    return "\n".join(parts)


def _trainings(rows: list[dict]) -> str:
    """Return sentences on where and how long the runs of mcl_tf have trained."""
    here = [row["seconds"] for row in rows if "device" not in row]
    elsewhere = [row["device"] for row in rows if "device" in row]
    sentences = [_training_time([value for value in here if value is not None], len(here))] if here else []
    for device in sorted(set(elsewhere)):
        count = elsewhere.count(device)
        which = "All were" if count == len(rows) else f"{count} of {len(rows)} were"
        sentences.append(f"{which} trained on {device} by `run_hlo.py`, and scored on a CPU.")
    return " ".join(sentences)


def _training_time(seconds: list[float], runs: int) -> str:
    """Return a sentence on the known seconds of `runs` trainings."""
    shared = "because other work shared the cores."
    if not seconds:
        return f"The times are unknown, {shared}"
    if not max(seconds):
        return "Nothing was trained."
    low, high = f"{min(seconds):.0f}", f"{max(seconds):.0f}"
    took = f"Training took {low if low == high else f'{low} to {high}'} s per class."
    unknown = runs - len(seconds)
    return f"{took} The times of {unknown} of {runs} trainings are unknown, {shared}" if unknown else took


def _one_table(rows: list[dict]) -> str:
    """Return one table: a row per score, a column per class or kind of anomaly, and their mean."""
    kinds = any("by_kind" in row for row in rows)
    cells: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        parts = row["by_kind"] if kinds else {row["normal"]: row["auroc"]}
        for column, aurocs in parts.items():
            for score, value in aurocs.items():
                label = LABELS[row["method"]] + score
                cells.setdefault(label, {}).setdefault(column, {})[row["seed"]] = 100.0 * value
    columns = sorted({column for line in cells.values() for column in line})
    lines = ["| | " + " | ".join(columns) + " | mean | worst seed |", "|---" * (len(columns) + 3) + "|"]
    for label, line in cells.items():
        means = [np.mean(list(line[column].values())) if column in line else np.nan for column in columns]
        worst = min((value for values in line.values() for value in values.values()), default=np.nan)
        texts = ["" if np.isnan(value) else f"{value:.1f}" for value in (*means, np.nanmean(means), worst)]
        lines.append(f"| {label} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
