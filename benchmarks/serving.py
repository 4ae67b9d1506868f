"""Scoring files and single pictures with the SavedModel, against the bare network on the same views.

    python -m benchmarks.serving --encoder=resnet18 --pictures=256

Three things alternate in one process: `--mode=score` from files to CSV (the model loaded beforehand) and the bare
8-view forward pass of the network in batches of the same size, whose throughputs are compared; and both with one
picture, whose latencies are. The network is untrained; the time is the same.
"""

import argparse
import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from mcl_tf import AnomalyDetector, files
from mcl_tf.config import Config


def main() -> None:
    """Measures and prints one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    size = options.image_size
    pictures = rng.integers(0, 256, (options.pictures, size, size, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        detector = AnomalyDetector(encoder=options.encoder, epochs=0, serving_batch_sizes=(1,)).fit(pictures[:32])
        detector.export(folder / "1")
        for place, picture in enumerate(pictures):
            tf.io.write_file(str(folder / f"pictures/{place:05}.png"), tf.io.encode_png(picture))
        measure(detector, pictures, folder, options)


def measure(detector, pictures, folder, options) -> None:
    """Times both sides and prints the ratios."""
    network, size = detector.scorer_.network, options.image_size
    bare = tf.function(
        lambda views: network(views, training=False), [tf.TensorSpec([None, size, size, 3], tf.float32)]
    )
    batch = options.batch_size
    views = tf.random.uniform((batch * 8, size, size, 3))
    scorer = files.load_scorer(folder / "1")
    config = Config().replace(
        saved_model=str(folder / "1"), images=str(folder / "pictures"), scoring_batch_size=batch
    )
    files.load_scorer = lambda path: scorer  # loading is once, whatever the number of pictures

    def score():
        output = folder / "scores.csv"
        output.unlink(missing_ok=True)
        files.score_files(config.replace(output=str(output)))

    def bare_throughput():
        for _ in range(len(pictures) // batch):
            bare(views).numpy()

    one = tf.constant(pictures[:1])
    sides = {
        "files": score,
        "bare": bare_throughput,
        "one": lambda: scorer(images=one)["score"].numpy(),
        "bare one": lambda: bare(views[:8]).numpy(),
    }
    times = {side: [] for side in sides}
    for repeat in range(options.repeats + 1):
        for side, call in sides.items():
            for _ in range(10 if side.endswith("one") else 1):
                start = time.perf_counter()
                call()
                if repeat:  # the first round traces and warms up
                    times[side].append(time.perf_counter() - start)
    median = {side: statistics.median(values) for side, values in times.items()}
    rate = {side: len(pictures) // batch * batch / median[side] for side in ("files", "bare")}
    print(
        f"{options.encoder}, {size}x{size}: files {rate['files']:.1f}/s, bare {rate['bare']:.1f}/s, throughput "
        f"{rate['files'] / rate['bare']:.3f} of it; one picture {median['one'] * 1000:.1f} ms, bare "
        f"{median['bare one'] * 1000:.1f} ms, latency {median['one'] / median['bare one']:.3f} of it; "
        f"{os.cpu_count()} cores, TensorFlow {tf.__version__}"
    )


if __name__ == "__main__":
    main()
