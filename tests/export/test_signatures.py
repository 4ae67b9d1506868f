"""Every signature in the C++ runtime, pictures of all kinds, versions and thresholds."""

# ruff: noqa: F811 - fixtures of another module are imported and asked for by name

import io
import json
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from test_saved_model import NAMES, TOLERANCE, cpp_loader, detector, files_of, mixed_pictures, run_cpp, saved_model

from mcl_tf import views
from mcl_tf.data import decoding
from mcl_tf.errors import UsageError
from mcl_tf.export import set_threshold, version_folders
from mcl_tf.export.model_card import read_card
from mcl_tf.export.signatures import ServedScorer, to_rgb
from mcl_tf.export.warmup_requests import FILE
from mcl_tf.scoring import self_ensemble, threshold_at

__all__ = ["cpp_loader", "detector", "saved_model"]
SIGNATURES = ("serving_default", "serving_bytes", "embed", "explain")
PICTURE = mixed_pictures(1, 24, 36, 5)[0]


def encoded(picture, form="PNG", mode=None, **options):
    """A picture's bytes."""
    image = Image.fromarray(picture)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, form, **options)
    return file.getvalue()


def png(width, height, depth, colour, rows):
    """A PNG of raw scan lines, for kinds that Pillow does not write."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows, 1))
        + chunk(b"IEND", b"")
    )


DECODER_INPUT = [tf.TensorSpec([None], tf.string)]
decode = tf.function(lambda contents: decoding.decode(contents, 16), input_signature=DECODER_INPUT)


def answers(saved_model, name, values):
    """What a signature gives in this process."""
    signature = tf.saved_model.load(str(saved_model)).signatures[name]
    (argument,) = signature.structured_input_signature[1]
    return {key: value.numpy() for key, value in signature(**{argument: tf.constant(values)}).items()}


def library(detector, images, name):
    """What a signature should give, by the library's own functions."""
    distances = detector.distances(images)
    if name == "embed":
        return {"embedding": detector.scorer_.embed(tf.constant(images), 8).numpy()}
    if name == "explain":
        shape = (len(images), 8)
        turns = np.broadcast_to(np.array([0, 0, 1, 1, 2, 2, 3, 3], np.int32), shape)
        return {"distances": distances, "rotation": turns, "flipped": np.broadcast_to([False, True] * 4, shape)}
    scores, classes = (part.numpy() for part in self_ensemble(distances, "weighted"))
    return {
        "score": scores,
        "is_anomaly": scores > detector.threshold_,
        "p_value": np.float32([np.mean(detector.calibration_scores_ >= score) for score in scores]),
        "nearest_class": classes,
        "class_name": np.array([NAMES[label] for label in classes], object),
    }


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("name", SIGNATURES)
def test_every_signature_in_the_cpp_loader(name, count, cpp_loader, saved_model, detector):
    images = mixed_pictures(count, 21, 30, 7)
    given = [encoded(image) for image in images] if name == "serving_bytes" else images
    found, done = run_cpp(cpp_loader, saved_model, given, name)
    assert done.returncode == 0, done.stderr
    expected = library(detector, images, name)
    assert set(found) == set(expected)
    for key, values in expected.items():
        assert (found[key].dtype, found[key].shape) == (values.dtype, values.shape)
        if values.dtype == np.float32:
            np.testing.assert_allclose(found[key], values, rtol=1e-5, atol=TOLERANCE)
        else:
            np.testing.assert_array_equal(found[key], values)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("sides", [(16, 16), (33, 20), (1, 1), (5, 300)])
def test_preprocessing_is_that_of_training_to_the_bit(channels, sides, rng):
    images = rng.integers(0, 256, (4, *sides, channels), dtype=np.uint8)
    in_graph = tf.function(
        lambda images: views.prepare(to_rgb(images), 16),
        input_signature=[tf.TensorSpec([None] * 4, tf.uint8)],
    )
    expected = views.prepare(images, 16)
    np.testing.assert_array_equal(in_graph(images), expected)
    if channels != 1:  # Pillow wants grey without a last dimension
        decoded, reasons = decode([encoded(image) for image in images])
        assert list(reasons.numpy()) == [b""] * 4
        np.testing.assert_array_equal(decoded, expected)


def test_library_default_and_bytes_give_equal_scores(saved_model, detector):
    images = mixed_pictures(6, 40, 28, 9)
    expected = detector.decision_function(images)
    by_default = answers(saved_model, "serving_default", images)["score"]
    by_bytes = answers(saved_model, "serving_bytes", [encoded(image) for image in images])["score"]
    np.testing.assert_allclose(by_default, expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(by_bytes, expected, rtol=0, atol=TOLERANCE)


# Pictures of all kinds: {name: (bytes, pixels uint8 [h, w, 3] that they stand for)}.
GREY = PICTURE.mean(axis=-1).astype(np.uint8)
ALPHA = np.concatenate([PICTURE, np.full((24, 36, 1), 7, np.uint8)], axis=-1)
PALETTE = Image.fromarray(PICTURE).quantize(16)
DEEP = (GREY.astype(np.uint16) << 8 | 0x9A).astype(">u2")  # of 16 bits a sample the upper eight count


def file_of(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def pixels(image):
    return np.array(image.convert("RGB"))


def three(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


GOOD = {
    "PNG": (encoded(PICTURE), PICTURE),
    "PNG, grey": (encoded(GREY), three(GREY)),
    "PNG, alpha": (encoded(ALPHA), PICTURE),
    "PNG, grey with alpha": (encoded(GREY, mode="LA"), three(GREY)),
    "PNG, 16 bits": (png(36, 24, 16, 0, b"".join(b"\0" + row.tobytes() for row in DEEP)), three(GREY)),
    "PNG, palette": (file_of(PALETTE, "PNG"), pixels(PALETTE)),
    "PNG, two colours": (encoded(GREY > 99), three(np.where(GREY > 99, 255, 0).astype(np.uint8))),
    "PNG, 1x1": (encoded(PICTURE[:1, :1]), PICTURE[:1, :1]),
    "PNG, more bytes after its end": (encoded(PICTURE) + b"more", PICTURE),
    "PNG, animated": (
        encoded(PICTURE, save_all=True, append_images=[Image.fromarray(PICTURE[::-1].copy())]),
        PICTURE,
    ),
    "BMP": (encoded(PICTURE, "BMP"), PICTURE),
    "BMP, grey": (encoded(GREY, "BMP"), three(GREY)),
    "BMP, alpha": (encoded(ALPHA, "BMP"), PICTURE),
    "BMP, palette": (file_of(PALETTE, "BMP"), pixels(PALETTE)),
    "GIF": (file_of(PALETTE, "GIF"), pixels(PALETTE)),
    "GIF, animated": (
        file_of(PALETTE, "GIF", save_all=True, append_images=[Image.fromarray(PICTURE[::-1].copy())]),
        pixels(PALETTE),
    ),
    "JPEG": (encoded(PICTURE, "JPEG"), None),
    "JPEG, grey": (encoded(GREY, "JPEG"), None),
    "JPEG, progressive": (encoded(PICTURE, "JPEG", progressive=True), None),
    "JPEG, CMYK": (encoded(PICTURE, "JPEG", mode="CMYK"), None),
}
NO_FORMAT = "is no picture of a known format (JPEG, PNG, GIF, BMP)"
DAMAGED = "is a {} that cannot be decoded: damaged, cut short or of a rare kind"
BAD = {
    "empty": (b"", "is empty"),
    "text": (b"no picture", NO_FORMAT),
    "one byte": (b"\xff", NO_FORMAT),
    "WebP": (encoded(PICTURE, "WEBP"), NO_FORMAT),
    "TIFF": (encoded(PICTURE, "TIFF"), NO_FORMAT),
    "base64": (b"iVBORw0KGgo=", NO_FORMAT),
    "PNG, first bytes alone": (encoded(PICTURE)[:8], DAMAGED.format("PNG")),
    "PNG, header alone": (encoded(PICTURE)[:33], DAMAGED.format("PNG")),
    "PNG, cut short": (encoded(PICTURE)[:-200], DAMAGED.format("PNG")),
    "PNG, a wrong byte": (encoded(PICTURE)[:100] + b"!" + encoded(PICTURE)[101:], DAMAGED.format("PNG")),
    "PNG, 0x0": (png(0, 0, 8, 2, b""), DAMAGED.format("PNG")),
    "PNG, 20000x20000": (
        png(20000, 20000, 8, 2, b""),
        "is a PNG of 20000x20000 pixels, more than 134217728",
    ),
    "JPEG, cut short": (encoded(PICTURE, "JPEG")[:-100], DAMAGED.format("JPEG")),
    "JPEG, first bytes alone": (b"\xff\xd8\xff", DAMAGED.format("JPEG")),
    "GIF, first bytes alone": (b"GIF89a", DAMAGED.format("GIF")),
    "GIF, cut short": (file_of(PALETTE, "GIF")[:60], DAMAGED.format("GIF")),
    "BMP, first bytes alone": (b"BM", DAMAGED.format("BMP")),
    "BMP, cut short": (encoded(PICTURE, "BMP")[:200], DAMAGED.format("BMP")),
    "BMP, compressed": (
        encoded(GREY, "BMP")[:30] + b"\1" + encoded(GREY, "BMP")[31:],
        DAMAGED.format("BMP"),
    ),
}


@pytest.mark.parametrize("kind", GOOD)
def test_pictures_of_all_kinds_are_decoded(kind):
    content, expected = GOOD[kind]
    if expected is None:  # decoders of JPEG may round differently: TensorFlow's own, that of training
        expected = tf.io.decode_jpeg(content, channels=3).numpy()
    # With a bad one beside it, the other way through the decoder is taken.
    for contents in ([content], [content, b"bad"]):
        images, reasons = decode(contents)
        assert reasons[0].numpy() == b""
        np.testing.assert_array_equal(images[0], views.prepare(expected[None], 16)[0])


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_picture_has_a_reason(kind):
    content, reason = BAD[kind]
    images, reasons = decode([encoded(PICTURE), content])
    assert [text.decode() for text in reasons.numpy()] == ["", reason]
    np.testing.assert_array_equal(images[0], views.prepare(PICTURE[None], 16)[0])


def test_good_pictures_score_and_bad_ones_are_named_in_cpp(cpp_loader, saved_model):
    good = [content for content, _ in GOOD.values()]
    found, done = run_cpp(cpp_loader, saved_model, good, "serving_bytes")
    assert done.returncode == 0, done.stderr
    assert np.isfinite(found["score"]).all()
    assert len(found["score"]) == len(good)
    found, done = run_cpp(
        cpp_loader, saved_model, good + [content for content, _ in BAD.values()], "serving_bytes"
    )
    assert (done.returncode, found) == (6, {})
    for place, (_, reason) in enumerate(BAD.values(), len(good)):
        assert f"image_bytes[{place}] {reason}" in done.stderr


@pytest.mark.slow
def test_a_picture_of_ten_thousand_pixels_a_side():
    content = png(10_000, 10_000, 8, 0, (b"\0" + bytes([200]) * 10_000) * 10_000)
    images, reasons = decode([content])
    assert reasons[0].numpy() == b""
    assert (images.numpy() == 200).all()


@pytest.mark.parametrize("shape", [(2, 5, 5, 2), (2, 5, 5, 5), (2, 0, 5, 3), (2, 5, 5, 0)])
def test_what_is_no_batch_of_pictures_is_refused(shape, saved_model):
    with pytest.raises(tf.errors.InvalidArgumentError, match="c = 1, 3 or 4. Received"):
        answers(saved_model, "serving_default", np.zeros(shape, np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize("name", SIGNATURES)
def test_not_a_number_never_leaves(name, detector, tmp_path, cpp_loader):
    broken = detector.scorer_.with_network(detector.scorer_.network)
    broken.means.assign(tf.fill(broken.means.shape, np.nan))
    served = ServedScorer(broken, [1.0], NAMES)
    if name == "embed":  # no Gaussian in it: the network itself has to be broken
        pytest.skip("the network is shared with the other tests")
    from mcl_tf.export.saved_model import export_saved_model

    path = export_saved_model(served, tmp_path / "1")
    given = [encoded(PICTURE)] if name == "serving_bytes" else PICTURE[None]
    found, done = run_cpp(cpp_loader, path, given, name)
    assert (done.returncode, found) == (6, {})
    assert "no finite" in done.stderr
    assert "index" in done.stderr


# Versions and thresholds


@pytest.fixture(scope="module")
def folder(detector, tmp_path_factory):
    folder = tmp_path_factory.mktemp("versions")
    assert detector.export(folder, new_version=True, figures={"auroc": 0.5}) == str(folder / "1")
    return folder


@pytest.mark.parametrize("options", [{"quantile": 0.5}, {"quantile": 0.0}, {"value": 3.25}])
def test_another_threshold_is_another_version(options, folder, detector, cpp_loader):
    before = files_of(folder / "1")
    path = set_threshold(folder / "1", **options)
    assert int(os.path.basename(path)) == version_folders.versions(folder)[-1]
    assert files_of(folder / "1") == before
    threshold = options.get("value")
    if threshold is None:
        threshold = threshold_at(detector.calibration_scores_, options["quantile"])
    images = mixed_pictures(6, 20, 20, 4)
    old, _ = run_cpp(cpp_loader, folder / "1", images)
    new, done = run_cpp(cpp_loader, path, images)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(new["is_anomaly"], old["score"] > np.float32(threshold))
    for name in ("score", "p_value", "nearest_class", "class_name"):
        np.testing.assert_array_equal(new[name], old[name])
    np.testing.assert_array_equal(answers(path, "serving_default", images)["is_anomaly"], new["is_anomaly"])
    card = read_card(path)
    assert card["threshold"]["value"] == pytest.approx(threshold)
    assert card["threshold"]["quantile"] == options.get("quantile")
    assert card["threshold"]["changed_from_version"] == 1
    assert card["figures"] == {"auroc": 0.5}


def test_a_value_between_scores_changes_who_is_flagged(folder):
    """Without this, a threshold that never changed anything would pass the test above."""
    images = mixed_pictures(6, 20, 20, 4)
    scores = np.sort(answers(folder / "1", "serving_default", images)["score"])
    path = set_threshold(folder, value=float(scores[2] + scores[3]) / 2)
    assert answers(path, "serving_default", images)["is_anomaly"].sum() == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Either quantile or value"),
        ({"quantile": 0.5, "value": 1.0}, "Either quantile or value"),
        ({"quantile": 1.5}, "from 0 to 1. Received: 1.5"),
        ({"quantile": float("nan")}, "Received: nan"),
        ({"value": float("inf")}, "finite number. Received: inf"),
    ],
)
def test_a_wrong_threshold_is_refused(options, message, folder):
    before = version_folders.versions(folder)
    with pytest.raises(UsageError, match=message):
        set_threshold(folder, **options)
    assert version_folders.versions(folder) == before


@pytest.mark.parametrize("kind", ["nowhere", "no number", "no variables"])
def test_a_threshold_needs_a_saved_model_of_ours(kind, folder, tmp_path):
    import shutil

    path = tmp_path / {"no number": "model"}.get(kind, "1")
    if kind != "nowhere":
        shutil.copytree(folder / "1", path)
    if kind == "no variables":
        shutil.rmtree(path / "variables")
    before = files_of(tmp_path)
    with pytest.raises(UsageError) as error:
        set_threshold(path, value=1.0)
    assert "\n" not in str(error.value)
    assert files_of(tmp_path) == before


def test_the_newest_versions_are_kept(tmp_path):
    def write(name):
        def fill(path):
            assert path.name.startswith("."), "a server would load it half written"
            path.mkdir()
            (path / "saved_model.pb").write_text(name)

        return fill

    for number in range(1, 12):
        path = version_folders.add(tmp_path, write(str(number)), keep=3)
        assert path == tmp_path / str(number)
    assert sorted(os.listdir(tmp_path)) == ["10", "11", "9"]  # by number, not by name
    assert version_folders.find(tmp_path).name == "11"

    def fail(path):
        path.mkdir()
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        version_folders.add(tmp_path, fail, keep=1)
    assert sorted(os.listdir(tmp_path)) == ["10", "11", "9"]


# What lies beside the graph


def test_model_card(folder, detector):
    card = read_card(folder / "1")
    assert card["classes"] == [name.decode() for name in NAMES]
    assert card["threshold"]["value"] == detector.threshold_
    assert card["threshold"]["calibration_pictures"] == len(detector.calibration_scores_)
    assert card["versions"]["tensorflow"] == tf.__version__
    json.dumps(card, allow_nan=False)


def test_warmup_requests_go_through_their_signatures(folder):
    prediction_log = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    signatures = tf.saved_model.load(str(folder / "1")).signatures
    found = []
    for record in tf.data.TFRecordDataset(str(folder / "1" / "assets.extra" / FILE)).as_numpy_iterator():
        request = prediction_log.PredictionLog.FromString(record).predict_log.request
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        answer = signatures[request.model_spec.signature_name](**inputs)
        found.append((request.model_spec.signature_name, len(answer["score"])))
    assert sorted(found) == sorted((name, n) for n in (1, 8, 32) for name in ("serving_default", "serving_bytes"))


@pytest.mark.slow
def test_without_the_extra_no_warmup_is_written_and_a_line_says_so(detector, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorflow_serving", None)
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    path = detector.export(tmp_path / "1")
    assert not os.path.exists(os.path.join(path, "assets.extra", FILE))
    assert "extra `serving`" in capsys.readouterr().out


@pytest.mark.slow
def test_half_precision_halves_the_weights_and_hardly_moves_scores(detector, tmp_path, cpp_loader, folder):
    from mcl_tf.export.float16_weights import half_precision
    from mcl_tf.export.saved_model import export_saved_model

    scorer = detector.scorer_.with_network(half_precision(detector.scorer_.network))
    path = export_saved_model(ServedScorer(scorer, detector.calibration_scores_, NAMES), tmp_path / "1")
    reader = tf.train.load_checkpoint(os.path.join(path, "variables", "variables"))
    dtypes = reader.get_variable_to_dtype_map().values()
    count = len(detector.scorer_.network.weights)
    assert list(dtypes).count(tf.float16) == count
    assert list(dtypes).count(tf.float32) == 4  # means, whitenings, threshold, held-out scores
    images = mixed_pictures(6, 20, 20, 4)
    found, done = run_cpp(cpp_loader, path, images)
    assert done.returncode == 0, done.stderr
    # float16 keeps eleven bits, 5e-4 of a weight; ten layers and the whitening make it some thousandths.
    np.testing.assert_allclose(found["score"], detector.decision_function(images), rtol=2e-2)


def test_the_graph_holds_one_network_and_nothing_of_training(folder, detector):
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel.FromString((folder / "1" / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    convolutions = sum(layer.__class__.__name__ == "Conv2D" for layer in detector.scorer_.network.layers)
    for function in graph.library.function:
        ops = [node.op for node in function.node_def]
        training = [n for n in function.node_def if n.op.startswith("FusedBatchNorm") and n.attr["is_training"].b]
        assert not training
        assert not [op for op in ops if "Grad" in op or "Random" in op or op.startswith("ResourceApply")]
        # Eight views of a picture are one batch: no convolution stands there eight times.
        assert ops.count("Conv2D") in (0, convolutions)
    reader = tf.train.load_checkpoint(str(folder / "1" / "variables" / "variables"))
    stored = sum(np.prod(shape, dtype=int) for shape in reader.get_variable_to_shape_map().values())
    needed = sum(weight.numpy().size for weight in detector.scorer_.weights) + len(detector.calibration_scores_)
    assert stored == needed + 1  # every weight once; the checkpoint's own description counts as one


@pytest.mark.slow
def test_saved_model_cli_shows_every_signature(folder):
    command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "show", "--all"]
    done = subprocess.run([*command, "--dir", str(folder / "1")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for name in (*SIGNATURES, "image_bytes", "p_value", "class_name", "embedding", "distances", "flipped"):
        assert f"['{name}']" in done.stdout
