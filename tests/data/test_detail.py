"""The detail that resizing takes: images whose loss is known, a second resizing, and the warning."""

import numpy as np
import pytest
from PIL import Image

from mcl_tf.data.detail import SAMPLE, lost_detail, warn_of_lost_detail


def noise(height=64, width=64, channels=3, seed=0):
    """Independent pixels: uint8 [height, width, channels]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def ramp(side=64):
    """A gradient from dark to bright: uint8 [side, side, 3]."""
    columns = np.linspace(20.0, 230.0, side)
    return np.round(np.broadcast_to(columns[None, :, None], (side, side, 3))).astype(np.uint8)


def wave(period, side=64):
    """Stripes: uint8 [side, side, 3]."""
    columns = 127.5 + 100.0 * np.sin(2.0 * np.pi * np.arange(side) / period)
    return np.round(np.broadcast_to(columns[None, :, None], (side, side, 3))).astype(np.uint8)


@pytest.mark.parametrize("size", [8, 16, 32, 48])
@pytest.mark.parametrize("channels", [1, 3])
def test_white_noise_loses_what_fewer_pixels_cannot_hold(size, channels):
    """An image of size² pixels spans at most that share of the dimensions of 64², and white noise fills them all."""
    found = lost_detail(noise(channels=channels), size)
    # The share is random in one image; its spread is about sqrt(2 / 64²) = 0.02.
    assert 1.0 - (size / 64) ** 2 - 0.02 <= found <= 1.0


@pytest.mark.parametrize("size", [16, 32])
def test_a_smooth_gradient_loses_nothing(size):
    assert lost_detail(ramp(), size) < 0.002


@pytest.mark.parametrize("size", [64, 65, 224])
@pytest.mark.parametrize("shape", [(64, 64), (40, 64), (64, 5)])
def test_images_that_are_not_made_smaller_lose_nothing(shape, size):
    assert lost_detail(noise(*shape), size) == 0.0


@pytest.mark.parametrize("size", [8, 32])
def test_a_constant_image_has_nothing_to_lose(size):
    assert lost_detail(np.full((64, 64, 3), 200, np.uint8), size) == 0.0


def test_finer_stripes_lose_more():
    shares = [lost_detail(wave(period), 16) for period in (64, 32, 16, 8, 4)]
    assert shares == sorted(shares)
    assert shares[0] < 0.05  # 16 pixels per period
    assert shares[-1] > 0.95  # one pixel per period


@pytest.mark.parametrize("image", [noise(), wave(8), wave(16), noise(64, 64, 3, seed=5) // 2 + ramp() // 2])
@pytest.mark.parametrize("size", [12, 16, 32])
def test_equals_the_resizing_of_pillow(image, size):
    """Bilinear with antialiasing, as the network sees it, and back by bicubic interpolation."""
    small = Image.fromarray(image).resize((size, size), Image.BILINEAR)
    channels = [Image.fromarray(np.float32(np.asarray(small)[..., c])) for c in range(3)]
    back = np.stack([np.asarray(channel.resize((64, 64), Image.BICUBIC)) for channel in channels], axis=-1)
    expected = np.mean((np.float64(image) - back) ** 2) / np.var(np.float64(image))
    # Pillow rounds between the two directions of its first resizing.
    assert lost_detail(image, size) == pytest.approx(min(expected, 1.0), abs=0.01)


def test_alpha_is_not_looked_at():
    image = noise(channels=4)
    assert lost_detail(image, 32) == lost_detail(image[..., :3], 32)


@pytest.mark.parametrize(
    ("images", "percent"),
    [
        ([noise(seed=seed) for seed in range(4)], 80),
        ([noise(), ramp(), ramp(), ramp()], 20),  # the mean counts
        ([noise(), *[ramp()] * 9], None),
        ([ramp()], None),
        ([], None),
    ],
)
def test_much_lost_detail_gives_one_warning(images, percent, library_log):
    warn_of_lost_detail(iter(images), 32)
    assert [record.levelname for record in library_log.records] == ["WARNING"] * (percent is not None)
    if percent is not None:
        message = library_log.messages[0]
        share = 100 * np.mean([lost_detail(image, 32) for image in images])
        assert share > percent
        assert message.startswith(f"Resizing to 32x32 pixels discards {share:.0f} % of the variance")
        assert "set score both or local, or a larger image_size" in message


def test_only_the_first_images_are_looked_at():
    """A dataset that is read from a disk is not read to its end."""
    images = (ramp() for _ in range(1000))
    warn_of_lost_detail(images, 32)
    assert 1000 - SAMPLE - 1 <= sum(1 for _ in images) <= 1000 - SAMPLE
