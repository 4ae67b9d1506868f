"""`input`: the rates at which images come from memory, from the records of TensorFlow Datasets and from a folder.

Training batches from memory are compared with the rate at which the training step of `small`, the fastest encoder,
takes images. Reading of a training set is compared with a bare `tf.data` map of the decoder over the same bytes in
memory, which keeps all cores busy and passes no image to Python. The images of a folder are also compared with the same
map whose images are kept in an array, because the system takes long to provide 3 GB.
"""

from __future__ import annotations

import pathlib
import tempfile

from benchmarks import step, subjects
from benchmarks.measure import Row, rate_row, time_sides

CLASSES = 10
REQUIRED = 50_000  # images per second from memory
BATCHES, RECORDS, FILES, FILE_SIZE = 300, 4000, 20_000, 224


def rows(repeats: int = 5):
    """Yield the rows."""
    yield from memory_rows(repeats)
    with tempfile.TemporaryDirectory() as directory:
        seconds = time_sides(record_sides(directory), repeats)
    comparison = "reading of records / bare decoding of their PNG"
    yield rate_row("input records", comparison, seconds, "read", "decode", RECORDS, "images/s")
    with tempfile.TemporaryDirectory() as directory:
        seconds = time_sides(folder_sides(pathlib.Path(directory)), repeats)
    what = "reading of a folder of JPEG"
    for name, side, reference, comparison in (
        ("read", "read", "decode", f"{what} at the network's size / bare decoding"),
        ("kept", "read", "kept", f"{what} at the network's size / bare decoding that keeps the images"),
        ("resized", "resized", "decode", f"{what} of twice that size / bare decoding"),
    ):
        yield rate_row(f"input folder {name}", comparison, seconds, side, reference, FILES, "images/s")


def memory_rows(repeats: int):
    """Yield rows of shuffled and balanced batches from memory, compared with the step and with the required rate."""
    import numpy as np

    from mcl_tf.data.batches import training_batches

    config = subjects.configuration("small")
    batch_size = config.training.batch_size
    images = subjects.random_images(CLASSES * 500)
    labels = np.arange(len(images)) % CLASSES
    sides = {"step": step.sides(config)[0]}
    for balanced in (False, True):
        batches = training_batches(images, labels, batch_size, 0, balanced=balanced).take(BATCHES)
        sides["balanced" if balanced else "shuffled"] = lambda batches=batches: drain(batches)
    seconds = time_sides(sides, repeats)
    for side in ("shuffled", "balanced"):
        row = rate_row("", "", seconds, side, "step", batch_size, "")
        # A round of the pipeline makes so many batches, a round of the step takes one.
        rate, taken = row.value * BATCHES, row.reference
        comparison = "batches from memory / images that the step takes"
        yield Row(f"input {side}", comparison, rate, taken, "images/s", rate / taken)
        comparison = "batches from memory / required rate"
        yield Row(f"input {side} rate", comparison, rate, REQUIRED, "images/s", rate / REQUIRED, at_least=1.0)


def drain(dataset) -> int:
    """Produce all elements of a dataset, drop them and return their number."""
    import numpy as np

    return int(dataset.reduce(np.int64(0), lambda count, *_: count + 1))


def record_sides(directory: str):
    """Return sides: reading of a training set of TensorFlow Datasets, PNG in records, and decoding of its bytes."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    from mcl_tf.data.sources import load_source
    from mcl_tf.data.tasks import read_images

    write_records(directory)
    source = load_source("benchmark_images", directory)
    raw = {"image": tfds.decode.SkipDecoding()}
    data = tfds.load("benchmark_images", split="train", data_dir=directory, decoders=raw)
    encoded = tf.data.Dataset.from_tensor_slices([example["image"] for example in data.as_numpy_iterator()])
    decoded = encoded.map(tf.io.decode_png, tf.data.AUTOTUNE)
    return {
        "read": lambda: len(read_images(source.read("train"), subjects.SIZE)[0]),
        "decode": lambda: drain(decoded),
    }


def write_records(directory: str) -> None:
    """Prepare a dataset of TensorFlow Datasets, `benchmark_images`."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    size = subjects.SIZE
    with tfds.core.registered.skip_registration():

        class BenchmarkImages(tfds.core.GeneratorBasedBuilder):
            """Smooth images."""

            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                image = tfds.features.Image(shape=(size, size, 3))
                label = tfds.features.ClassLabel(num_classes=CLASSES)
                features = tfds.features.FeaturesDict({"image": image, "label": label})
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples(RECORDS), "test": self._generate_examples(1)}

            def _generate_examples(self, count):
                for index, image in enumerate(smooth_images(count, size)):
                    yield index, {"image": image, "label": index % CLASSES}

    BenchmarkImages(data_dir=directory).download_and_prepare()


def smooth_images(count: int, size: int, different: int = 64):
    """Yield smooth images with some noise, like photographs, of which the first `different` ones are repeated."""
    import numpy as np
    import tensorflow as tf

    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (min(count, different), 8, 8, 3)).astype(np.float32)
    smooth = tf.image.resize(coarse, (size, size)).numpy()
    images = np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
    for index in range(count):
        yield images[index % len(images)]


def folder_sides(directory: pathlib.Path):
    """Return sides: reading of a folder of JPEG files at their size and at half of it, and decoding of their bytes.

    `decode` drops the images, `kept` keeps them.
    """
    import tensorflow as tf

    from mcl_tf.data.room import BATCH, Room, joined
    from mcl_tf.data.sources import FolderSource

    encoded = []
    folder = directory / "train" / "good"
    folder.mkdir(parents=True)
    for index, image in enumerate(smooth_images(FILES, FILE_SIZE)):
        encoded.append(tf.io.encode_jpeg(image).numpy())
        (folder / f"{index:06}.jpg").write_bytes(encoded[-1])

    def read(size):
        return len(FolderSource(str(directory), ("train",)).hold("train", None, size, "squeeze", Room())[0])

    decoded = tf.data.Dataset.from_tensor_slices(encoded).map(tf.io.decode_jpeg, tf.data.AUTOTUNE)
    batches = decoded.batch(BATCH).prefetch(2)
    return {
        "kept": lambda: joined(batches.as_numpy_iterator(), FILES, FILE_SIZE),
        "read": lambda: read(FILE_SIZE),
        "resized": lambda: read(FILE_SIZE // 2),
        "decode": lambda: drain(decoded),
    }
