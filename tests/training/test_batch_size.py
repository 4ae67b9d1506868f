"""The size of the global batch: within images, replicas and memory, and that of the checkpoint when resumed."""

import functools
import json
import types

import pytest
import tensorflow as tf

from mcl_tf.config import ModelConfig
from mcl_tf.errors import UsageError
from mcl_tf.networks import build_encoder
from mcl_tf.training import batch_size
from mcl_tf.training.batch_size import global_batch_size, limit_to_memory
from mcl_tf.utils import memory
from tests.training.training_helpers import make_trainer

VIEWS = 8  # per image: two augmentations of four rotations
SHARE = 0.8  # of the free memory


@pytest.mark.parametrize(
    ("requested", "count", "replicas", "expected"), [(8, 100, 4, 8), (128, 22, 1, 22), (128, 22, 4, 20), (1, 1, 1, 1)]
)
def test_batch_size_is_limited_to_the_images(requested, count, replicas, expected):
    assert global_batch_size(requested, count, replicas) == expected


@pytest.mark.parametrize(
    ("requested", "count", "replicas", "received"),
    [
        (10, 100, 4, "8 or 12. Received: 10"),
        (3, 100, 4, "replicas, e.g. 4. Received: 3"),
        (7, 100, 2, "6 or 8. Received: 7"),
        (8, 3, 4, "at least one image per replica. Received: 3 for 4"),
    ],
)
def test_batch_size_that_replicas_cannot_share_is_refused(requested, count, replicas, received):
    with pytest.raises(UsageError, match=received):
        global_batch_size(requested, count, replicas)


# Within the memory.


@pytest.fixture(scope="module")
def encoder():
    return build_encoder(ModelConfig(encoder="small", width=0.25), 32)


@pytest.fixture
def free_for(monkeypatch, encoder):
    """Return a function that leaves as much memory free as a step with a number of images takes."""

    def leave(images, network=encoder):
        free = images * VIEWS * memory.training_bytes_per_view(network) / SHARE
        monkeypatch.setattr(memory, "available", lambda: int(free) + 1)

    return leave


@pytest.mark.parametrize(
    ("size", "images", "replicas", "expected"),
    [
        (128, 128, 1, 128),
        (128, 127, 1, 64),
        (128, 64, 1, 64),
        (128, 20, 1, 16),
        (128, 4, 1, 4),
        (24, 12, 3, 12),
        (24, 11, 3, 6),
        (8, 4, 4, 4),
        (15, 14, 1, 7),  # odd sizes are halved, too: 15 training images are half of 30
        (22, 8, 1, 5),
        (20, 9, 4, 8),  # a multiple of the replicas
        (4, 4, 1, 4),
        (1, 0, 1, 1),  # the memory of a single image is left to TensorFlow
    ],
)
def test_batch_is_halved_until_it_fits(size, images, replicas, expected, encoder, free_for, library_log):
    free_for(images)
    assert limit_to_memory(size, replicas, encoder, None) == expected
    assert len(library_log.messages) == (expected < size)
    if expected < size:
        assert library_log.messages[0].startswith(f"batch_size is {expected} instead of {size}")
        assert "\n" not in library_log.messages[0]


@pytest.mark.parametrize("unknown", ["memory", "GPU"])
def test_batch_is_kept_where_the_memory_is_unknown(unknown, encoder, free_for, monkeypatch, library_log):
    free_for(4)
    if unknown == "memory":
        monkeypatch.setattr(memory, "available", lambda: None)
    else:
        monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: ["a GPU"] if kind == "GPU" else [])
    assert limit_to_memory(128, 1, encoder, None) == 128
    assert library_log.messages == []


@pytest.mark.parametrize(
    ("size", "images", "replicas", "side"),
    [
        (128, 3, 1, 64),
        (4, 3, 1, 64),
        (7, 5, 1, 64),
        (15, 5, 1, 64),
        (2, 1, 1, 64),
        (8, 3, 4, 64),
        (128, 3, 1, 32),  # below 32 pixels, the stem halves no sides
    ],
)
def test_refusal_names_an_image_size_that_fits(size, images, replicas, side, free_for):
    build = functools.partial(build_encoder, ModelConfig(encoder="small", width=0.25))
    large = build(side)
    free_for(images, large)
    with pytest.raises(UsageError) as error:
        limit_to_memory(size, replicas, large, build)
    message = str(error.value)
    assert "\n" not in message
    assert f"{side}x{side} pixels takes about" in message
    assert message.endswith(f"Received: {side}")
    possible = int(message.split("Possible: image_size ")[1].split(".")[0])
    assert 8 <= possible < side
    assert 4 <= limit_to_memory(size, replicas, build(possible), build) <= size or size < 4


def test_sizes_are_given_in_gibibytes(monkeypatch, library_log):
    """Both messages, by hand: 8 views of 4 bytes, of 8² million values each."""
    network = types.SimpleNamespace(input_shape=(None, 64, 64, 3))
    monkeypatch.setattr(memory, "training_bytes_per_view", lambda encoder: 2**16 * encoder.input_shape[1] ** 2)
    monkeypatch.setattr(memory, "available", lambda: 20 * 2**30)  # 16 GiB may be taken: 8 images of 2 GiB
    assert limit_to_memory(32, 1, network, None) == 8
    assert library_log.messages[0].endswith("takes about 2.0 GiB per image, and 20.0 GiB are free.")
    monkeypatch.setattr(memory, "available", lambda: 5 * 2**29)  # 2 GiB may be taken: a quarter of what 4 images take
    with pytest.raises(UsageError) as error:
        limit_to_memory(32, 1, network, lambda side: types.SimpleNamespace(input_shape=(None, side, side, 3)))
    assert str(error.value) == (
        "A training step with 4 images of 64x64 pixels takes about 8.0 GiB, and 2.5 GiB are free. "
        "Possible: image_size 32. Received: 64"
    )


# In a training.


@pytest.mark.parametrize(("first", "later"), [(4, 100), (100, 4), (100, 1)])
def test_resumed_training_keeps_the_batch_size_of_the_checkpoint(first, later, tmp_path, free_for, library_log):
    """Whatever memory is free when it resumes; with less than any batch needs, too."""
    encoder, size = make_trainer().model.encoder, min(first, 8)
    free_for(first, encoder)
    trainer = make_trainer(tmp_path, batch_size=8)
    trainer.step = 2
    trainer.save()
    metadata = json.loads((tmp_path / "checkpoints" / "step-000000002" / "metadata.json").read_text())
    assert metadata["batch_size"] == trainer.batch_size == size
    free_for(later, encoder)
    library_log.clear()
    resumed = make_trainer(tmp_path, batch_size=8)
    assert (resumed.batch_size, resumed.steps_per_epoch) == (size, 22 // size)
    assert library_log.messages == []
    assert resumed.restore() == 2


def test_halved_batch_halves_the_learning_rate(free_for):
    encoder = make_trainer().model.encoder
    free_for(8, encoder)
    whole = make_trainer(batch_size=8).model.optimizer
    free_for(4, encoder)
    halved = make_trainer(batch_size=8).model.optimizer
    first = [float(tf.convert_to_tensor(optimizer.learning_rate)) for optimizer in (whole, halved)]
    assert first[0] == pytest.approx(2.0 * first[1])
    assert first[0] == pytest.approx(0.3 * 8 * 4 / 256)


def test_the_share_of_views_is_that_of_a_training_step():
    assert batch_size.VIEWS_PER_IMAGE == VIEWS
