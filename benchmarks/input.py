"""Pictures a second that come in from memory, TensorFlow Datasets' records and a folder, against what they should.

    python -m benchmarks.input

- `memory`: training batches, against the pictures a second that the training step of `small`, the fastest encoder,
  takes: above 1, training never waits.
- `records`, `folder`: reading a training set at the network's size, against a bare `tf.data` map of
  `tf.io.decode_png` or `decode_jpeg` over the same bytes in memory: what the decoder alone takes of all cores.
  `folder, resized` has pictures twice as wide and high as the network's: what it lacks to 1 is the resizing.

Both sides alternate in one process, `tf.data` counts without handing over to Python, medians are compared.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from mcl_tf.config import Config
from mcl_tf.data import folders
from mcl_tf.data.pipeline import training_batches
from mcl_tf.data.protocols import read_pictures
from mcl_tf.data.sources import load_source
from mcl_tf.optimizers import make_optimizer
from mcl_tf.training import build_model

CLASSES = 10


def arguments() -> argparse.ArgumentParser:
    """What can be chosen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--image_size", type=int, default=32, help="of pictures in memory and in records")
    parser.add_argument("--batches", type=int, default=300, help="batches of a run from memory")
    parser.add_argument("--records", type=int, default=5000, help="pictures of a run from records")
    parser.add_argument("--files", type=int, default=600, help="pictures of a run from a folder")
    parser.add_argument("--file_size", type=int, default=224, help="side of a folder's pictures")
    return parser


def rows(options=None) -> list[dict]:
    """Measures.

    Args:
      options: of `arguments`; their defaults by default.

    Returns:
      A dict a row: name, value and reference in `unit`, what the reference is (`of`), and their ratio.
    """
    options = options or arguments().parse_args([])
    return [*memory(options), records(options), *folder(options)]


def row(name: str, rates: dict, of: str) -> dict:
    """A row out of the rates of `ours` and `reference`."""
    return {
        "name": f"input: {name}",
        "value": rates["ours"],
        "unit": "pictures/s",
        "reference": rates["reference"],
        "of": of,
        "ratio": rates["ours"] / rates["reference"],
    }


def alternate(sides: dict, repeats: int) -> dict[str, float]:
    """The median rate of every side, a function that gives how many pictures it has dealt with."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, call in sides.items():
            start = time.perf_counter()
            count = call()
            if repeat:  # the first round traces and warms up
                found[name].append(count / (time.perf_counter() - start))
    return {name: statistics.median(rates) for name, rates in found.items()}


def drain(dataset: tf.data.Dataset) -> int:
    """The number of elements, each made and dropped."""
    return int(dataset.reduce(np.int64(0), lambda count, *_: count + 1))


def memory(options) -> list[dict]:
    """Batches of pictures in memory, shuffled and balanced."""
    size = options.image_size
    pictures = np.random.default_rng(0).integers(0, 256, (CLASSES * 500, size, size, 3), dtype=np.uint8)
    labels = np.arange(len(pictures)) % CLASSES
    found = []
    for batch_size in (32, 128):
        step = _step(pictures[:batch_size], batch_size)
        for balanced in (False, True):
            batches = training_batches(pictures, labels, batch_size, 0, balanced=balanced).take(options.batches)
            sides = {"ours": lambda b=batches, n=batch_size: n * drain(b), "reference": step}
            name = f"memory, {'balanced ' if balanced else ''}batches of {batch_size}"
            found.append(row(name, alternate(sides, options.repeats), "the training step of `small`"))
    return found


def _step(pictures, batch_size: int):
    """A training step on a batch that lies there."""
    config = Config().replace(encoder="small")
    model = build_model(config, pictures.shape[1])
    model.compile(optimizer=make_optimizer(config.training, 0.01), jit_compile=False)
    batch = tf.constant(pictures), tf.zeros([batch_size], tf.int32)
    step = tf.function(lambda: model.optimize(batch)["loss"], autograph=False)

    def run():
        step().numpy()
        return batch_size

    return run


def records(options) -> dict:
    """A training set of TensorFlow Datasets, PNG in records as cifar10's."""
    with tempfile.TemporaryDirectory() as directory:
        _write_records(directory, options)
        source = load_source("benchmark_pictures", directory)
        encoded = source_bytes(directory)
        sides = {
            "ours": lambda: len(read_pictures(source.read("train"), options.image_size)[0]),
            "reference": lambda: drain(encoded.map(tf.io.decode_png, tf.data.AUTOTUNE)),
        }
        return row("records", alternate(sides, options.repeats), "tf.io.decode_png")


def _write_records(directory: str, options) -> None:
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    side = options.image_size
    with tfds.core.registered.skip_registration():

        class BenchmarkPictures(tfds.core.GeneratorBasedBuilder):
            """Random pictures."""

            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                image = tfds.features.Image(shape=(side, side, 3))
                label = tfds.features.ClassLabel(num_classes=CLASSES)
                features = tfds.features.FeaturesDict({"image": image, "label": label})
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples(options.records), "test": self._generate_examples(1)}

            def _generate_examples(self, count):
                for place, picture in enumerate(make_pictures(min(count, 64), side, count)):
                    yield place, {"image": picture, "label": place % CLASSES}

    BenchmarkPictures(data_dir=directory).download_and_prepare()


def source_bytes(directory: str) -> tf.data.Dataset:
    """The encoded pictures of the records, in memory."""
    import tensorflow_datasets as tfds

    data = tfds.load(
        "benchmark_pictures",
        split="train",
        data_dir=directory,
        decoders={"image": tfds.decode.SkipDecoding()},
    )
    return tf.data.Dataset.from_tensor_slices([example["image"] for example in data.as_numpy_iterator()])


def make_pictures(different: int, side: int, count: int):
    """`count` pictures, smooth with some noise, as photographs are, of which so many are different."""
    rng = np.random.default_rng(0)
    rough = rng.uniform(0, 255, (different, 8, 8, 3)).astype(np.float32)
    smooth = tf.image.resize(rough, (side, side)).numpy()
    pictures = np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
    return (pictures[place % different] for place in range(count))


def folder(options) -> list[dict]:
    """A folder of JPEG files at the network's size and twice as large."""
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        encoded = []
        for place, picture in enumerate(make_pictures(64, options.file_size, options.files)):
            encoded.append(tf.io.encode_jpeg(picture).numpy())
            path = directory / "train" / "good" / f"{place:06}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded[-1])
        source = folders.Folder(str(directory), ("train",))
        bare = tf.data.Dataset.from_tensor_slices(encoded).map(tf.io.decode_jpeg, tf.data.AUTOTUNE)
        found = []
        for title, size in (("folder", options.file_size), ("folder, resized", options.file_size // 2)):
            sides = {
                "ours": lambda size=size: len(read_pictures(source.read("train"), size)[0]),
                "reference": lambda: drain(bare),
            }
            found.append(row(title, alternate(sides, options.repeats), "tf.io.decode_jpeg"))
        return found


def main() -> None:
    """Measures and prints a line a row."""
    for found in rows(arguments().parse_args()):
        print(
            f"{found['name']}: {found['value']:,.0f} {found['unit']}, {found['of']} {found['reference']:,.0f}, "
            f"ratio {found['ratio']:.2f}"
        )
    print(f"{os.cpu_count()} cores, TensorFlow {tf.__version__}")


if __name__ == "__main__":
    main()
