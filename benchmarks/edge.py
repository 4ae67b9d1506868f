"""Size, scores and latency of the exported formats: python -m benchmarks.edge prints the table of benchmarks/edge.md.

It trains two detectors of digits, the demo's and `compact` at 64x64 pixels, for a few minutes, exports them in all
formats, and scores the test images one at a time, each runtime on one core: a process of its own with one thread per
runtime. It needs the extras `litert` and `onnx`. Latencies are medians over rounds in which the formats take turns.
"""

from __future__ import annotations

import os
import pathlib
import statistics
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np

from benchmarks.measure import run_in_process, time_sides

DEMO = {"batch_size": 32, "epochs": 40, "learning_rate": 0.1, "crop_min_area": 0.4, "strength": 0.25}
DETECTORS = {
    "demo, 16x16 pixels": {**DEMO, "encoder": "small", "normal": ("8",)},
    "compact, 64x64 pixels": {**DEMO, "encoder": "compact", "image_size": 64, "max_steps": 60, "normal": ("3",)},
}
FORMATS = {  # {title: (format, precision)}
    "SavedModel float32": ("saved_model", "float32"),
    "LiteRT float32": ("litert", "float32"),
    "LiteRT float16": ("litert", "float16"),
    "LiteRT int8": ("litert", "int8"),
    "ONNX float32": ("onnx", "float32"),
}
ROUNDS, CALLS = 15, 20


def measure(options: dict) -> list[tuple]:
    """Train, export and measure one detector.

    Args:
      options: changes of the configuration, see `Config.replace`.

    Returns:
      (title, bytes, milliseconds of one image, AUROC, median of the scores of normal images minus those of the
      SavedModel in standard deviations of the held-out scores, share of flagged normal images) of every format.
    """
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    from mcl_tf import AnomalyDetector, Config
    from mcl_tf.data import arrays
    from mcl_tf.data.tasks import build_task
    from mcl_tf.evaluation import compute_metrics

    config = Config().replace(dataset="digits", **options)
    task = build_task(config.data, "", lambda items, *_, **__: items, config.scoring.score)
    detector = AnomalyDetector(config, image_size=task.image_size).fit(task.train, class_names=task.class_names)
    is_anomaly = np.array([bool(anomaly) for _, anomaly, *_ in task.test.as_numpy_iterator()])
    images = np.concatenate(list(map(np.asarray, arrays.scoring_batches(task.test, 128, task.image_size))))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = {title: _export(detector, task, pathlib.Path(folder), *kind) for title, kind in FORMATS.items()}
        scorers = {title: _load(path) for title, path in paths.items()}
        seconds = time_sides({title: _calls(score, images) for title, score in scorers.items()}, ROUNDS)
        reference, spread = None, detector.calibration_scores_.std()
        for title, path in paths.items():
            answers = [scorers[title](image) for image in images]
            scores, flagged = (np.array([answer[name] for answer in answers]) for name in ("score", "is_anomaly"))
            reference = scores if reference is None else reference
            size = sum(p.stat().st_size for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file())
            normal = ~is_anomaly
            shift = float(np.median((scores - reference)[normal])) / spread
            latency = statistics.median(seconds[title]) * 1000 / CALLS
            auroc = compute_metrics(is_anomaly, scores)["auroc"]
            rows.append((title, size, latency, auroc, shift, float(flagged[normal].mean())))
    return rows


def _export(detector, task, folder: pathlib.Path, form: str, precision: str) -> pathlib.Path:
    from mcl_tf import experiment
    from mcl_tf.run_directory import EXPORTED

    options = {"images": experiment.held_out_images(detector.config, task)} if precision == "int8" else {}
    path = folder / precision / EXPORTED[form]
    return pathlib.Path(detector.export(path, format=form, precision=precision, **options))


def _load(path: pathlib.Path):
    """Return a function from one image to {output: value}."""
    if path.suffix == ".tflite":
        from ai_edge_litert.interpreter import Interpreter

        litert = Interpreter(str(path), num_threads=1).get_signature_runner()
        return lambda image: {name: value[0] for name, value in litert(images=image[None]).items()}
    if path.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options)
        names = [output.name for output in session.get_outputs()]
        return lambda image: dict(zip(names, (v[0] for v in session.run(names, {"images": image[None]})), strict=True))
    import tensorflow as tf

    from mcl_tf.file_scoring import load_scorer

    scorer = load_scorer(path)
    return lambda image: {name: v.numpy()[0] for name, v in scorer(images=tf.constant(image[None])).items()}


def _calls(score, images):
    return lambda: [score(image) for image in images[:CALLS]]


def main() -> None:
    """Measure all detectors and print the table."""
    print("| detector | format | size | one image, one core | AUROC | shift of normal images | normal images flagged |")
    print("|---|---|---|---|---|---|---|")
    for name, options in DETECTORS.items():
        for title, size, latency, auroc, shift, flagged in run_in_process(measure, options):
            figures = f"{size / 1024:,.0f} KiB | {latency:.3g} ms | {auroc:.4f} | {shift:+.3f} | {100 * flagged:.1f} %"
            print(f"| {name} | {title} | {figures} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
