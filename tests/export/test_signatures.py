"""The signatures of the served model, in C++ and in Python: answers, preprocessing and refused inputs."""

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import explanation, views
from mcl_tf.export.saved_model import export_saved_model
from mcl_tf.export.signatures import ServedScorer, to_rgb
from tests.encoded_images import BAD, GOOD, IMAGE
from tests.helpers import CLASS_NAMES, SCORE_TOLERANCE, call_signature, encode, make_once, mixed_images

SIGNATURES = ("serving_default", "serving_bytes", "embed", "explain")


@pytest.fixture(scope="module")
def saved_model(tiny_export):
    """The SavedModel of the tiny detector."""
    return tiny_export / "saved_model" / "1"


def expected_answer(detector, images, name):
    """The answer of a signature, from the library's own functions."""
    distances = detector.distances(images)
    if name == "embed":
        return {"embedding": detector.scorer_.embed(tf.constant(images), 8).numpy()}
    if name == "explain":
        shape = (len(images), 8)
        rotations = np.broadcast_to(np.array([0, 0, 1, 1, 2, 2, 3, 3], np.int32), shape)
        heat = explanation.heat_map(detector.scorer_, images).numpy()
        flipped = np.broadcast_to([False, True] * 4, shape)
        return {"distances": distances, "rotation": rotations, "flipped": flipped, "heat_map": heat}
    outputs = detector.scorer_.evaluate_images(images)
    scores, classes = outputs["score"], outputs["nearest_class"]
    held_out = detector.calibration_scores_
    return {
        "score": scores,
        "is_anomaly": scores > detector.threshold_,
        "p_value": np.array([(1 + np.sum(held_out >= s)) / (1 + len(held_out)) for s in scores], np.float32),
        "nearest_class": classes,
        "class_name": np.array([CLASS_NAMES[label].encode() for label in classes], object),
    }


def as_input(images, signature):
    """The images as the input of a signature: encoded for serving_bytes."""
    return [encode(image) for image in images] if signature == "serving_bytes" else images


@pytest.mark.parametrize("count", [0, 5])
@pytest.mark.parametrize("signature", SIGNATURES)
def test_every_signature_answers_in_cpp(signature, count, run_cpp, saved_model, tiny_detector):
    images = mixed_images(count, 21, 30, 7)
    found, process = run_cpp(saved_model, as_input(images, signature), signature)
    assert process.returncode == 0, process.stderr
    expected = expected_answer(tiny_detector, images, signature)
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape)
        if values.dtype == np.float32:
            np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=SCORE_TOLERANCE)
        else:
            np.testing.assert_array_equal(found[name], values)


def test_default_signature_is_the_documented_one(saved_model):
    signatures = tf.saved_model.load(str(saved_model)).signatures
    assert set(SIGNATURES) <= set(signatures)
    serve = signatures["serving_default"]
    (images,) = serve.structured_input_signature[1].values()
    assert (images.name, images.dtype, images.shape.as_list()) == ("images", tf.uint8, [None, None, None, None])
    outputs = {name: (spec.dtype, spec.shape.as_list()) for name, spec in serve.structured_outputs.items()}
    assert outputs == {
        "score": (tf.float32, [None]),
        "is_anomaly": (tf.bool, [None]),
        "p_value": (tf.float32, [None]),
        "nearest_class": (tf.int32, [None]),
        "class_name": (tf.string, [None]),
    }


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("sides", [(16, 16), (33, 20), (1, 1), (5, 300)])
def test_prepares_images_exactly_like_training(channels, sides, rng):
    images = rng.integers(0, 256, (4, *sides, channels), dtype=np.uint8)
    in_graph = tf.function(
        lambda images: views.prepare(to_rgb(images), 16), input_signature=[tf.TensorSpec([None] * 4, tf.uint8)]
    )
    np.testing.assert_array_equal(in_graph(images), views.prepare(images, 16))


def test_scores_arrays_and_encoded_images_like_the_library(saved_model, tiny_detector):
    images = mixed_images(6, 40, 28, 9)
    expected = tiny_detector.decision_function(images)
    for signature in ("serving_default", "serving_bytes"):
        scores = call_signature(saved_model, signature, as_input(images, signature))["score"]
        np.testing.assert_allclose(scores, expected, rtol=0, atol=SCORE_TOLERANCE)


@pytest.mark.slow
def test_scores_all_good_images_and_names_all_bad_ones_in_cpp(run_cpp, saved_model):
    good = [content for content, _ in GOOD.values()]
    found, process = run_cpp(saved_model, good, "serving_bytes")
    assert process.returncode == 0, process.stderr
    assert np.isfinite(found["score"]).all()
    assert len(found["score"]) == len(good)
    found, process = run_cpp(saved_model, good + [content for content, _ in BAD.values()], "serving_bytes")
    assert (process.returncode, found) == (6, {})
    for index, (_, reason) in enumerate(BAD.values(), len(good)):
        assert f"image_bytes[{index}] {reason}" in process.stderr


@pytest.mark.parametrize("shape", [(2, 5, 5, 2), (2, 5, 5, 5), (2, 0, 5, 3), (2, 5, 5, 0)])
def test_refuses_what_is_not_a_batch_of_images(shape, saved_model):
    with pytest.raises(tf.errors.InvalidArgumentError, match="c = 1, 3 or 4. Received"):
        call_signature(saved_model, "serving_default", np.zeros(shape, np.uint8))


@pytest.fixture(scope="module")
def broken_models(tiny_detector, tmp_path_factory):
    """Two SavedModels as damaged files would leave them: `gaussians` and `network`."""
    scorer = tiny_detector.scorer_
    gaussians = scorer.with_network(scorer.network)
    gaussians.means.assign(tf.fill(gaussians.means.shape, np.nan))
    # Infinite, because a ReLU may turn not-a-number into 0; normalized to length 1, it becomes not-a-number.
    copy = tf.keras.models.clone_model(scorer.network)
    copy.set_weights(scorer.network.get_weights())
    gamma = [layer for layer in copy.layers if hasattr(layer, "gamma")][-1].gamma
    gamma.assign(np.full(gamma.shape, np.inf))

    def export(folder):
        export_saved_model(ServedScorer(gaussians, [1.0], CLASS_NAMES), folder / "gaussians")
        export_saved_model(ServedScorer(scorer.with_network(copy), [1.0], CLASS_NAMES), folder / "network")

    return make_once(tmp_path_factory, "broken_models", export)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "signature", "output"),
    [
        ("gaussians", "serving_bytes", "score"),
        ("network", "embed", "embedding"),
    ],
)
def test_never_answers_not_a_number(part, signature, output, broken_models, run_cpp):
    found, process = run_cpp(broken_models / part, as_input(IMAGE[None], signature), signature)
    assert (process.returncode, found) == (6, {})
    assert f"no finite {output} for the image at index" in process.stderr


@pytest.mark.slow
def test_embeds_images_without_the_gaussians(broken_models):
    embedding = call_signature(broken_models / "gaussians", "embed", IMAGE[None])["embedding"]
    assert np.isfinite(embedding).all()
