"""What is found: AUROC of presets on CIFAR-10 and folders, beside rotation prediction and simple features.

python -m benchmarks.quality --preset=cpu_quick --seeds=1,2,3 --data_dir=DIR   ten classes of CIFAR-10
python -m benchmarks.quality --preset=folder --dataset=DIR --normal=good       a folder, each kind of anomaly by itself
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
METHODS = ("mcl", "rotation", "features")
INTRODUCTION = """# What is found
AUROC x 100, written by `python -m benchmarks.quality` from benchmarks/quality.jsonl; its docstring says how to measure
again. Every value is the mean over the seeds; `worst seed` is the smallest of all. `score` is what the product reports,
`SEI` its self-ensemble of distances alone, `one view` the distance of the upright image alone. Rotation prediction has
the same encoder, augmentation, optimizer and number of steps. Nearest neighbours are five, on standardized features.
"""


def main() -> int:
    """Run what is asked for and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", default="cpu_quick", help="name of a file in flags/presets")
    parser.add_argument("--dataset", default="cifar10", help="cifar10, another dataset, or a folder")
    parser.add_argument("--normal", default="", help="normal classes, each by itself; all of a dataset by default")
    parser.add_argument("--seeds", default="1,2,3", help="comma-separated seeds")
    parser.add_argument("--data_dir", default="", help="directory of TensorFlow Datasets")
    parser.add_argument("--methods", default="mcl,rotation,features", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--options", default="", help="further flags for the preset, e.g. '--image_size=96'")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, help="file of the results, JSON lines")
    parser.add_argument("--table", action="store_true", help="only write the table")
    options = parser.parse_args()
    if not options.table:
        normal = options.normal.split(",") if options.normal else [str(number) for number in range(10)]
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
    if method == "features":
        scores, result = _features(task), {}
    else:
        scores, result = (_mcl if method == "mcl" else _rotation)(config, task)
    result["auroc"] = {name: _auroc(is_anomaly, values_) for name, values_ in scores.items()}
    kinds = sorted(set(labels[is_anomaly].tolist()))
    if len(kinds) <= 5:  # folders: every kind of defect by itself
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
    detector.fit(task.train, class_names=task.class_names, callbacks=[clock], verbose=0)
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
    from mcl_tf.data import arrays
    from mcl_tf.data.batches import training_batches
    from mcl_tf.model import MaskedContrastiveModel
    from mcl_tf.normal_images import select_held_out
    from mcl_tf.training import optimizers
    from mcl_tf.training.trainer import Trainer

    class RotationPrediction(MaskedContrastiveModel):
        def contrastive_loss(self, projections, labels, rotations, step, replicas):
            loss, metrics = super().contrastive_loss(projections, labels, rotations, step, replicas)
            return 0.0 * loss, {**metrics, "loss": 0.0 * loss}

    config = config.replace(rotation_weight=1.0)
    images = arrays.resize(task.train[~select_held_out(task.train_labels, config)], task.image_size)
    trainer = Trainer(config, images, np.zeros(len(images), np.int32))
    base = trainer.model
    model = RotationPrediction(
        base.encoder,
        base.projection_head,
        base.loss_config,
        base.augmentation_config,
        base.weight_decay,
        base.seed,
        clip_norm=base.clip_norm,
    )
    steps = trainer.steps_per_epoch
    schedule = optimizers.make_schedule(config.training, trainer.batch_size, trainer.total_steps, steps)
    model.compile(optimizer=optimizers.make_optimizer(config.training, schedule), jit_compile=False)
    clock = _Clock()
    batches = training_batches(images, np.zeros(len(images)), trainer.batch_size, config.data.seed)
    model.fit(batches, epochs=trainer.epochs, steps_per_epoch=steps, verbose=0, callbacks=[clock], shuffle=False)
    rotations = tf.constant(views.view_rotations(8))

    @tf.function
    def score(images):
        images = views.prepare(images, task.image_size)
        flat = views.self_ensemble_views(views.central(views.to_float(images), config.scoring.view_area), 8)
        logits = model.rotation_head(model.encoder(flat, training=False), training=False)
        wanted = tf.tile(rotations, [tf.shape(images)[0]])
        nll = tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, logits)
        return tf.reduce_mean(tf.reshape(nll, [-1, 8]), axis=1)

    scores = [score(batch).numpy() for batch in task.test.map(lambda image, *_: image).batch(64)]
    return {"score": np.concatenate(scores)}, {"seconds": round(clock.seconds, 1)}


def _features(task):
    """Score by the distance to the nearest training image, of two simple features."""
    from mcl_tf.tables.baselines import nearest_neighbours, standardized

    test = np.stack([image for image, *_ in task.test.as_numpy_iterator()])
    scores = {}
    for name, function in (("grey levels", _grey_levels), ("HOG", _hog)):
        scores[name] = nearest_neighbours(*standardized(function(task.train), function(test)))
    return scores


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
                name = {"mcl": "mcl_tf, ", "rotation": "rotation prediction, ", "features": "nearest neighbours on "}
                label = name[row["method"]] + score
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
