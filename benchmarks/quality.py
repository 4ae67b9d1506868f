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

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np

from benchmarks import quality_methods
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
    scores, result = getattr(quality_methods, method)(config, task)
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
