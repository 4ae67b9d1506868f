"""`input`: pictures a second that come in from memory, TensorFlow Datasets' records and a folder.

Training batches from memory stand against the rate at which the training step of `small`, the fastest encoder,
takes pictures; reading a training set against a bare `tf.data` map of the decoder over the same bytes in memory,
which keeps all cores busy. `tf.data` counts without handing the pictures over to Python.
"""

from __future__ import annotations

import pathlib
import tempfile

from benchmarks import step, subjects
from benchmarks.measure import Row, rate, times

CLASSES = 10
NEEDED = 50_000  # pictures a second from memory
BATCHES, RECORDS, FILES, FILE_SIDE = 300, 4000, 2400, 224


def rows(repeats: int = 5):
    """Yields the rows."""
    yield from memory(repeats)
    with tempfile.TemporaryDirectory() as directory:
        found = times(records(directory), repeats)
    what = "reading records / bare decoding of their PNG"
    yield rate("input records", what, found, "read", "decode", RECORDS, "pictures/s")
    with tempfile.TemporaryDirectory() as directory:
        found = times(folder(pathlib.Path(directory)), repeats)
    for side, title in (("read", "at the network's size"), ("resized", "twice as large")):
        what = f"reading a folder of JPEG {title} / bare decoding"
        yield rate(f"input folder {side}", what, found, side, "decode", FILES, "pictures/s")


def memory(repeats: int):
    """Batches from memory, shuffled and balanced, against the step, and against the pictures asked for."""
    import numpy as np

    from mcl_tf.data.batches import training_batches

    config = subjects.configuration("small")
    batch_size = config.training.batch_size
    pictures = subjects.pictures(CLASSES * 500)
    labels = np.arange(len(pictures)) % CLASSES
    sides = {"step": step.sides(config)[0]}
    for balanced in (False, True):
        batches = training_batches(pictures, labels, batch_size, 0, balanced=balanced).take(BATCHES)
        sides["balanced" if balanced else "shuffled"] = lambda batches=batches: drain(batches)
    found = times(sides, repeats)
    for side in ("shuffled", "balanced"):
        taken = rate("", "", found, side, "step", batch_size, "")
        # A run of the pipeline has so many batches, one of the step has one.
        made = taken.value * BATCHES
        yield Row(
            f"input {side}",
            "batches from memory / pictures that the step takes",
            made,
            taken.reference,
            "pictures/s",
            made / taken.reference,
        )
        what = "batches from memory / pictures that are asked for"
        yield Row(f"input {side} rate", what, made, NEEDED, "pictures/s", made / NEEDED, at_least=1.0)


def drain(dataset) -> int:
    """The number of elements, each made and dropped."""
    import numpy as np

    return int(dataset.reduce(np.int64(0), lambda count, *_: count + 1))


def records(directory: str):
    """A training set of TensorFlow Datasets, PNG in records as cifar10's: read, and its bytes decoded."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    from mcl_tf.data.sources import load_source
    from mcl_tf.data.tasks import read_pictures

    write_records(directory)
    source = load_source("benchmark_pictures", directory)
    raw = {"image": tfds.decode.SkipDecoding()}
    data = tfds.load("benchmark_pictures", split="train", data_dir=directory, decoders=raw)
    encoded = tf.data.Dataset.from_tensor_slices([example["image"] for example in data.as_numpy_iterator()])
    decoded = encoded.map(tf.io.decode_png, tf.data.AUTOTUNE)
    return {
        "read": lambda: len(read_pictures(source.read("train"), subjects.SIDE)[0]),
        "decode": lambda: drain(decoded),
    }


def write_records(directory: str) -> None:
    """Prepares a set of TensorFlow Datasets, `benchmark_pictures`."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    side = subjects.SIDE
    with tfds.core.registered.skip_registration():

        class BenchmarkPictures(tfds.core.GeneratorBasedBuilder):
            """Smooth pictures."""

            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                image = tfds.features.Image(shape=(side, side, 3))
                label = tfds.features.ClassLabel(num_classes=CLASSES)
                features = tfds.features.FeaturesDict({"image": image, "label": label})
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples(RECORDS), "test": self._generate_examples(1)}

            def _generate_examples(self, count):
                for place, picture in enumerate(smooth_pictures(count, side)):
                    yield place, {"image": picture, "label": place % CLASSES}

    BenchmarkPictures(data_dir=directory).download_and_prepare()


def smooth_pictures(count: int, side: int, different: int = 64):
    """`count` pictures, smooth with some noise, as photographs are, of which so many are different."""
    import numpy as np
    import tensorflow as tf

    rng = np.random.default_rng(0)
    rough = rng.uniform(0, 255, (min(count, different), 8, 8, 3)).astype(np.float32)
    smooth = tf.image.resize(rough, (side, side)).numpy()
    pictures = np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
    return (pictures[place % len(pictures)] for place in range(count))


def folder(directory: pathlib.Path):
    """A folder of JPEG files: read at their size, read at half of it, and their bytes decoded."""
    import tensorflow as tf

    from mcl_tf.data.folders import Folder
    from mcl_tf.data.tasks import read_pictures

    encoded = []
    place_of_files = directory / "train" / "good"
    place_of_files.mkdir(parents=True)
    for place, picture in enumerate(smooth_pictures(FILES, FILE_SIDE)):
        encoded.append(tf.io.encode_jpeg(picture).numpy())
        (place_of_files / f"{place:06}.jpg").write_bytes(encoded[-1])
    source = Folder(str(directory), ("train",))
    decoded = tf.data.Dataset.from_tensor_slices(encoded).map(tf.io.decode_jpeg, tf.data.AUTOTUNE)
    return {
        "read": lambda: len(read_pictures(source.read("train"), FILE_SIDE)[0]),
        "resized": lambda: len(read_pictures(source.read("train"), FILE_SIDE // 2)[0]),
        "decode": lambda: drain(decoded),
    }
