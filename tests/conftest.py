"""Set-up of all tests: four logical CPUs, so that several replicas run on any machine."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import mcl_tf  # noqa: F401, I001 - before TensorFlow, as in main.py, so that it takes the same kernels

import numpy as np
import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)


@pytest.fixture
def rng():
    """Seeded random numbers."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory):
    """A folder of pictures of many kinds and sizes: class `good` (train and test, green), `cut` (test, red).

    There are 8 pictures of `good` for training, two in a folder below it, 3 for the test, and 2 of `cut`; hidden
    files and files that are no pictures lie among them.
    """
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures") / "bottle"

    def put(name, mode="RGB", size=(24, 20), colour=(20, 200, 20)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).convert(mode).save(path)

    for place, ending in enumerate(("png", "JPG", "bmp", "gif", "jpeg", "PNG")):
        put(f"train/good/{place}.{ending}", size=(24 + place, 20 + 3 * place))
    put("train/good/deep er/6.png", "RGBA")
    put("train/good/deep er/7.png", "LA")
    for place in range(3):
        put(f"test/good/{place}.png", "P" if place else "RGB")
    for name in ("test/cut/ü, 1.jpg", "test/cut/0/9.png"):
        put(name, colour=(200, 20, 20))
    for name in ("train/good/Thumbs.db", "train/good/.DS_Store", "train/good/.0.png", "test/cut/notes.txt"):
        (folder / name).write_bytes(b"no picture")
    put("train/.hidden/0.png")
    put("ground_truth/cut/0.png")
    (folder / "train" / "a class without pictures").mkdir()
    (folder / "train" / "good" / "a folder.png").mkdir()
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """A prepared set of TensorFlow Datasets, `tiny_pictures`: 30 train and 12 test pictures of 3 colours.

    Gives its data_dir. Picture i of a split has class i % 3 and the grey level i in its alpha-free corner, so
    that a test can tell which picture it sees.
    """
    import tensorflow_datasets as tfds

    with tfds.core.registered.skip_registration():

        class TinyPictures(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=(20, 20, 3)),
                        "label": tfds.features.ClassLabel(names=["red", "green", "blue"]),
                    }
                )
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples(30), "test": self._generate_examples(12)}

            def _generate_examples(self, count):
                for i in range(count):
                    picture = np.zeros((20, 20, 3), np.uint8)
                    picture[..., i % 3] = 200
                    picture[0, 0] = i
                    yield i, {"image": picture, "label": i % 3}

    data_dir = tmp_path_factory.mktemp("tfds")
    builder = TinyPictures(data_dir=str(data_dir))
    builder.download_and_prepare()
    return str(data_dir)
