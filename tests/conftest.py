"""Set-up of all tests: the kernels of main.py, four logical CPUs for several replicas, and shared fixtures."""

import gc
import logging
import os
import platform

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as in main.py; subprocesses of the tests inherit it

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import tensorflow as tf  # noqa: E402

import mcl_tf  # noqa: E402
from tests.helpers import CLASS_NAMES, DETECTOR_OPTIONS, make_once, tinted_images  # noqa: E402

gc.freeze()  # half a million objects of TensorFlow, which every full collection would visit
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)


def pytest_addoption(parser):
    """Add the option `--one-each`, for a quick run on another stack."""
    parser.addoption("--one-each", action="store_true", help="run the first case of every parameterised test only")


def pytest_collection_modifyitems(config, items):
    """Deselect what `--one-each` leaves out."""
    if config.getoption("--one-each"):
        first = {item.nodeid.split("[")[0]: item for item in reversed(items)}
        left_out = [item for item in items if item is not first[item.nodeid.split("[")[0]]]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item is first[item.nodeid.split("[")[0]]]


@pytest.fixture
def rng():
    """Seeded random numbers."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def two_replicas():
    """A MirroredStrategy of two logical CPUs, the same one for all tests of a process.

    Two strategies would use the same keys for different collective operations, which then fail. The key base, meant for
    tests, keeps it apart from the strategies that the library creates.
    """

    class MirroredStrategy(tf.distribute.MirroredStrategy):
        _collective_key_base = 1_000_000

    return MirroredStrategy(["/cpu:0", "/cpu:1"])


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """A folder of images of several formats, modes and sizes, with the classes `good` (green) and `cut` (red).

    `good` has 8 images for training, two of them in a subfolder, and 3 for the test. `cut` has 2 for the test. Hidden
    files and files that are not images lie among them.
    """
    from PIL import Image

    folder = tmp_path_factory.mktemp("images") / "bottle"

    def put(name, mode="RGB", size=(24, 20), colour=(20, 200, 20)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).convert(mode).save(path)

    for index, ending in enumerate(("png", "JPG", "bmp", "gif", "jpeg", "PNG")):
        put(f"train/good/{index}.{ending}", size=(24 + index, 20 + 3 * index))
    put("train/good/deep er/6.png", "RGBA")
    put("train/good/deep er/7.png", "LA")
    for index in range(3):
        put(f"test/good/{index}.png", "P" if index else "RGB")
    for name in ("test/cut/ü, 1.jpg", "test/cut/0/9.png"):
        put(name, colour=(200, 20, 20))
    for name in ("train/good/Thumbs.db", "train/good/.DS_Store", "train/good/.0.png", "test/cut/notes.txt"):
        (folder / name).write_bytes(b"not an image")
    put("train/.hidden/0.png")
    put("ground_truth/cut/0.png")
    (folder / "train" / "a class without images").mkdir()
    (folder / "train" / "good" / "a folder.png").mkdir()
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """A prepared dataset of TensorFlow Datasets, `tiny_images`: 30 train and 12 test images of 3 colours.

    Returns its data_dir. Image i of a split has class i % 3 and the value i in its top left pixel, which identifies it.
    """
    import tensorflow_datasets as tfds

    with tfds.core.registered.skip_registration():

        class TinyImages(tfds.core.GeneratorBasedBuilder):
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
                    image = np.zeros((20, 20, 3), np.uint8)
                    image[..., i % 3] = 200
                    image[0, 0] = i
                    yield i, {"image": image, "label": i % 3}

    data_dir = tmp_path_factory.mktemp("tfds")
    builder = TinyImages(data_dir=str(data_dir))
    builder.download_and_prepare()
    return str(data_dir)


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory):
    """A folder with a trained detector of two classes, `detector`, and its exported versions, `saved_model/1`."""

    def train_and_export(folder):
        detector = mcl_tf.AnomalyDetector(**DETECTOR_OPTIONS, calibration_fraction=0.4)
        detector.fit(*tinted_images(24), class_names=CLASS_NAMES)
        detector.save(folder / "detector")
        path = detector.export(folder / "saved_model", new_version=True, metrics={"auroc": 0.5})
        assert path == str(folder / "saved_model" / "1")

    return make_once(tmp_path_factory, "tiny_export", train_and_export)


@pytest.fixture(scope="session")
def tiny_detector(tiny_export):
    """The detector of `tiny_export`."""
    return mcl_tf.AnomalyDetector.load(tiny_export / "detector")


@pytest.fixture
def library_log(caplog, monkeypatch):
    """Pytest's `caplog` for the library's logger, from the level INFO on."""
    logger = logging.getLogger("mcl_tf")
    monkeypatch.setattr(logger, "handlers", list(logger.handlers))
    monkeypatch.setattr(logger, "propagate", True)  # main.py sets False, if a test has called it
    caplog.set_level("INFO", "mcl_tf")
    return caplog


@pytest.fixture
def keras_settings():
    """A function that changes the global settings of Keras: floatx, data format, policy; they are restored."""
    backend, precision = tf.keras.backend, tf.keras.mixed_precision

    def change(floatx, data_format, policy):
        backend.set_floatx(floatx)
        backend.set_image_data_format(data_format)
        precision.set_global_policy(policy)

    before = backend.floatx(), backend.image_data_format(), precision.global_policy()
    yield change
    change(*before)
