"""WebP and TIFF, which Pillow decodes, in folders and files; images that it cannot decode."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mcl_tf import views
from mcl_tf.data import decoding, image_files, rare_formats
from mcl_tf.data.folders import Folder
from tests.helpers import encode

RNG = np.random.default_rng(7)
IMAGE = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)
DEEP = RNG.integers(0, 2**16, (20, 30)).astype(np.uint16)
CLEAR = np.dstack([IMAGE, np.zeros((20, 30), np.uint8)])
TURNED = Image.Exif()
TURNED[0x0112] = 6  # to be turned clockwise
GREY = np.repeat((DEEP >> 8).astype(np.uint8)[..., None], 3, axis=-1)
PALETTE, CMYK = Image.fromarray(GREY).convert("P"), Image.fromarray(IMAGE).convert("CMYK")
BLACK = Image.new("RGB", (30, 20))
TIFF, WEBP = encode(IMAGE, "TIFF", compression="tiff_lzw"), encode(IMAGE, "WEBP", lossless=True)
GOOD = {
    "webp": (WEBP, IMAGE),
    "animated webp": (encode(IMAGE, "WEBP", save_all=True, append_images=[BLACK], lossless=True), IMAGE),
    "transparent webp": (encode(CLEAR, "WEBP", lossless=True, exact=True), IMAGE),
    "turned webp": (encode(IMAGE, "WEBP", lossless=True, exif=TURNED), np.rot90(IMAGE, -1)),
    "tiff": (TIFF, IMAGE),
    "big-endian 16 bits": (encode(Image.fromarray(DEEP.astype(">u2")), "TIFF"), GREY),
    "16 bits": (encode(Image.fromarray(DEEP), "TIFF"), GREY),
    "transparent tiff": (encode(CLEAR, "TIFF"), IMAGE),
    "turned tiff": (encode(IMAGE, "TIFF", exif=TURNED), np.rot90(IMAGE, -1)),
    "palette tiff": (encode(PALETTE, "TIFF"), np.asarray(PALETTE.convert("RGB"))),
    "cmyk tiff": (encode(CMYK, "TIFF"), np.asarray(CMYK.convert("RGB"))),
}
BAD = {
    "cut tiff": (TIFF[:200], f"is a TIFF {rare_formats.UNDECODABLE}"),
    "damaged tiff": (TIFF[:8] + b"\xff" * 50 + TIFF[58:], f"is a TIFF {rare_formats.UNDECODABLE}"),
    "float tiff": (encode(Image.new("F", (30, 20)), "TIFF"), "is a TIFF of 30x20 pixels with 32 bits per sample"),
    "cut webp": (WEBP[:100], f"is a WebP {rare_formats.UNDECODABLE}"),
}


@pytest.mark.parametrize("kind", GOOD)
def test_decodes_the_pixels(kind):
    contents, pixels = GOOD[kind]
    np.testing.assert_array_equal(rare_formats.decode(contents), pixels)


def test_folders_and_files_have_the_same_pixels(tmp_path):
    (tmp_path / "train" / "good").mkdir(parents=True)
    for name, (contents, _) in GOOD.items():
        (tmp_path / "train" / "good" / f"{name}.{'webp' if 'webp' in name else 'tif'}").write_bytes(contents)
    pixels = [pixels for _, (_, pixels) in sorted(GOOD.items(), key=lambda item: item[0] + ".")]
    read = Folder(str(tmp_path)).read("train").as_numpy_iterator()
    for (found, _), expected in zip(read, pixels, strict=True):
        np.testing.assert_array_equal(found, expected)
    scored, reasons = image_files.make_decoder(16)([contents for contents, _ in GOOD.values()])
    assert not any(reasons)
    expected = [views.prepare(pixels[None], 16)[0] for _, pixels in GOOD.values()]
    np.testing.assert_array_equal(scored, expected)


@pytest.mark.parametrize("kind", BAD)
def test_says_why_an_image_cannot_be_decoded(kind, capfd):
    contents, reason = BAD[kind]
    with pytest.raises(ValueError, match=reason):
        rare_formats.decode(contents)
    capfd.readouterr()
    images, reasons = image_files.make_decoder(16)([contents, WEBP])
    assert reasons[0].startswith(reason)
    assert not reasons[1]
    assert images[1].any()
    assert not capfd.readouterr().err  # libtiff writes there
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoding.decode_at_own_size(tf.constant(contents))


def test_names_all_formats_that_files_may_have():
    _, reasons = image_files.make_decoder(16)([b"<svg/>"])
    assert reasons[0] == "is not an image of a known format (JPEG, PNG, GIF, BMP, WebP, TIFF)"


def test_too_many_pixels_are_refused(monkeypatch):
    monkeypatch.setattr(rare_formats, "MAX_PIXELS", 599)
    with pytest.raises(ValueError, match="is a TIFF of more than 599 pixels"):
        rare_formats.decode(TIFF)
