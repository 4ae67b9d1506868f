"""Encoders from elsewhere: from files that the tests make, and of keras.applications with random weights."""

import importlib
import random

import numpy as np
import pytest
import tensorflow as tf

import mcl_tf
from mcl_tf import networks, pretrained
from mcl_tf.config import Config, ModelConfig
from mcl_tf.errors import UsageError
from mcl_tf.normalization import ImageStandardization, SynchronizedBatchNormalization
from mcl_tf.training.trainer import build_model
from mcl_tf.utils import compat
from tests.helpers import tinted_images

SIZE = 16
layers = tf.keras.layers


def trunk(size=SIZE, channels=3, seed=0):
    """Build a functional model with the outputs of two convolutions and batch normalization, of seeded weights."""
    inputs = layers.Input((size, size, channels))
    first = layers.Conv2D(6, 3, 2, padding="same", activation="relu")(inputs)
    normalized = layers.BatchNormalization()(first)
    second = layers.Conv2D(8, 3, 2, padding="same", activation="relu")(normalized)
    model = tf.keras.Model(inputs, [first, second])
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(-0.5, 1.0, weight.shape) ** 2 for weight in model.get_weights()])
    return model


def one_vector(size=SIZE):
    model = trunk(size)
    return tf.keras.Model(model.input, layers.GlobalAveragePooling2D()(model.outputs[1]))


def several_vectors():
    model = trunk()
    return tf.keras.Model(model.inputs, [layers.GlobalAveragePooling2D()(x) for x in model.outputs])


def named_outputs():
    model = trunk()
    return tf.keras.Model(model.input, {"a": layers.GlobalAveragePooling2D()(model.outputs[0]), "b": model.outputs[1]})


def feature_map():
    model = trunk(size=None)
    return tf.keras.Model(model.input, model.outputs[1])


def sequential():
    return tf.keras.Sequential([layers.Input((SIZE, SIZE, 3)), layers.Conv2D(6, 3), layers.GlobalAveragePooling2D()])


def sequential_without_input():
    model = tf.keras.Sequential([layers.Conv2D(6, 3), layers.GlobalAveragePooling2D()])
    model(tf.zeros((1, SIZE, SIZE, 3)))
    return model


def with_a_model_inside():
    model = one_vector()
    inputs = layers.Input((SIZE, SIZE, 3))
    return tf.keras.Model(inputs, layers.Dense(4)(model(layers.Rescaling(2.0)(inputs))))


def sequential_with_a_model_inside():
    return tf.keras.Sequential([layers.Input((SIZE, SIZE, 3)), feature_map(), layers.GlobalAveragePooling2D()])


MODELS = {
    function.__name__: function
    for function in (
        one_vector,
        several_vectors,
        named_outputs,
        feature_map,
        sequential,
        sequential_without_input,
        with_a_model_inside,
        sequential_with_a_model_inside,
    )
}


@pytest.fixture
def save(tmp_path):
    """Function that saves a model and returns the path of the file."""

    def call(model):
        model.save(tmp_path / "mine.keras")
        return str(tmp_path / "mine.keras")

    return call


@pytest.fixture
def images(rng):
    return rng.random((4, SIZE, SIZE, 3), np.float32)


def outputs_by_definition(model, images):
    """Return a model's vectors: maps are averaged, several vectors are normalized and joined."""
    outputs = [np.asarray(output) for output in tf.nest.flatten(model(images))]
    vectors = [output.mean((1, 2)) if output.ndim == 4 else output for output in outputs]
    if len(vectors) > 1:
        vectors = [vector / np.linalg.norm(vector, axis=1, keepdims=True) for vector in vectors]
    return np.concatenate(vectors, 1)


# Encoders from files.


@pytest.mark.filterwarnings("ignore:The structure of `inputs`:UserWarning")
@pytest.mark.parametrize("kind", MODELS)
def test_a_loaded_encoder_gives_the_vectors_of_the_model(kind, save, images):
    model = MODELS[kind]()
    encoder = pretrained.load_encoder(save(model), SIZE)
    expected = outputs_by_definition(model, images)
    assert encoder.input_shape == (None, SIZE, SIZE, 3)
    assert encoder.output_shape == (None, expected.shape[1])
    assert np.ptp(expected, 0).max() > 1e-3
    np.testing.assert_allclose(encoder(images), expected, rtol=1e-5, atol=1e-6)  # other sums of float32


def test_a_loaded_encoder_takes_images_of_another_size_than_it_was_saved_with(save, rng):
    model = feature_map()
    encoder = pretrained.load_encoder(save(model), 24)
    images = rng.random((2, 24, 24, 3), np.float32)
    np.testing.assert_allclose(encoder(images), outputs_by_definition(model, images), rtol=1e-5)


def test_the_outputs_of_a_loaded_encoder_are_float32(save, images):
    inputs = layers.Input((SIZE, SIZE, 3))
    model = tf.keras.Model(inputs, layers.GlobalAveragePooling2D(dtype="float16")(inputs))
    assert model.outputs[0].dtype in ("float16", tf.float16)
    assert pretrained.load_encoder(save(model), SIZE)(images).dtype == tf.float32


def test_a_home_folder_is_expanded(save, images, tmp_path, monkeypatch):
    save(one_vector())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert pretrained.load_encoder("~/mine.keras", SIZE).output_shape == (None, 8)


def two_inputs():
    inputs = [layers.Input((SIZE, SIZE, 3)) for _ in range(2)]
    return tf.keras.Model(inputs, layers.GlobalAveragePooling2D()(layers.Add()(inputs)))


def grey_images():
    model = trunk(channels=1)
    return tf.keras.Model(model.input, model.outputs[1])


def vectors_as_inputs():
    inputs = layers.Input((5,))
    return tf.keras.Model(inputs, layers.Dense(3)(inputs))


def fixed_size():
    inputs = layers.Input((24, 24, 3))
    return tf.keras.Model(inputs, layers.Dense(3)(layers.Flatten()(inputs)))


def three_dimensions():
    inputs = layers.Input((SIZE, SIZE, 3))
    return tf.keras.Model(inputs, layers.Reshape((SIZE, -1))(inputs))


@pytest.mark.parametrize("kind", [two_inputs, grey_images, vectors_as_inputs, fixed_size, three_dimensions])
def test_models_that_map_no_images_to_vectors_are_refused_in_one_line(kind, save):
    path = save(kind())
    message = (
        r"must be vectors \[n, d\]" if kind is three_dimensions else r"must map images \[n, 16, 16, 3\] to vectors"
    )
    with pytest.raises(UsageError, match=message) as error:
        pretrained.load_encoder(path, SIZE)
    assert path in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"not a model"], ids=["nowhere", "empty", "text"])
def test_files_that_are_no_models_are_refused_in_one_line(content, tmp_path):
    path = tmp_path / "mine.keras"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match="cannot be loaded") as error:
        pretrained.load_encoder(str(path), SIZE)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_code_in_a_file_is_not_executed(save):
    inputs = layers.Input((SIZE, SIZE, 3))
    path = save(tf.keras.Model(inputs, layers.Lambda(lambda x: tf.reduce_mean(x, [1, 2]))(inputs)))
    with pytest.raises(UsageError, match="cannot be loaded"):
        pretrained.load_encoder(path, SIZE)


# What is trained.


def layers_of(model, kind):
    """Return the layers of a kind, also those of models within the model."""
    found = []
    for layer in model.layers:
        found += layers_of(layer, kind) if isinstance(layer, tf.keras.Model) else [layer] * isinstance(layer, kind)
    return found


@pytest.mark.parametrize("kind", ["one_vector", "with_a_model_inside", "sequential_with_a_model_inside"])
def test_the_batch_normalization_of_a_trained_encoder_is_held(kind, save, images):
    encoder = networks.build_encoder(ModelConfig(encoder=save(MODELS[kind]())), SIZE)
    held = layers_of(encoder, layers.BatchNormalization)
    assert [layer.trainable for layer in held] == [False]
    before = [weight.numpy() for weight in held[0].weights]
    np.testing.assert_allclose(encoder(images, training=True), encoder(images, training=False), rtol=1e-6)
    for weight, value in zip(held[0].weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert len(encoder.trainable_weights) >= 4  # both convolutions


def test_the_batch_normalization_of_our_own_encoders_is_trained():
    encoder = networks.build_encoder(ModelConfig(encoder="small", width=0.25), SIZE)
    assert all(layer.trainable for layer in layers_of(encoder, SynchronizedBatchNormalization))


OPTIONS = {"projection_hidden": 8, "projection_dim": 4, "batch_size": 8, "image_size": SIZE, "max_steps": 2, "seed": 3}


def fit(**options):
    detector = mcl_tf.AnomalyDetector(**{**OPTIONS, **options})
    return detector.fit(tinted_images(24, SIZE, SIZE)[0], verbose=0)


def test_a_frozen_encoder_is_not_trained(save, monkeypatch):
    """Neither are heads: there is no training at all."""
    monkeypatch.setattr(tf.keras.Model, "fit", lambda *args, **kwargs: pytest.fail("the model is trained"))
    model = one_vector()
    detector = fit(encoder=save(model), freeze_encoder=True)
    scorer = detector.scorer_
    assert (scorer.knows_rotations, scorer.evidence, scorer.view_count) == (False, False, 2)
    for weight, expected in zip(scorer.encoder.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    scores = detector.decision_function(tinted_images(6, SIZE, SIZE, 1)[0])
    assert np.isfinite(scores).all()
    assert np.ptp(scores) > 0.0


def test_fine_tuning_changes_the_kernels_and_holds_the_batch_normalization(save):
    model = one_vector()
    encoder = fit(encoder=save(model)).scorer_.encoder
    kernels, expected = ([layer.kernel.numpy() for layer in layers_of(m, layers.Conv2D)] for m in (encoder, model))
    assert len(kernels) == 2
    assert all(np.abs(a - b).max() > 1e-6 for a, b in zip(kernels, expected, strict=True))
    (held,), (before,) = (layers_of(m, layers.BatchNormalization) for m in (encoder, model))
    for a, b in zip(held.get_weights(), before.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_detector_with_a_loaded_encoder_needs_its_file_no_longer(save, tmp_path):
    path = save(one_vector())
    detector = fit(encoder=path, freeze_encoder=True)
    detector.save(tmp_path / "detector")
    (tmp_path / "mine.keras").unlink()
    images = tinted_images(6, SIZE, SIZE, 1)[0]
    loaded = mcl_tf.AnomalyDetector.load(tmp_path / "detector")
    np.testing.assert_array_equal(loaded.decision_function(images), detector.decision_function(images))


@pytest.mark.parametrize("score", ["local", "both"])
def test_the_places_of_a_frozen_encoder_are_part_of_the_local_score(score, save, tmp_path):
    inputs = x = layers.Input((SIZE, SIZE, 3))
    for width in (4, 6, 8):
        x = layers.Conv2D(width, 3, 2, "same", activation="relu")(x)
    path = save(tf.keras.Model(inputs, layers.GlobalAveragePooling2D()(x)))
    detector = fit(encoder=path, freeze_encoder=True, score=score, detail_size=2 * SIZE)
    scorer, images = detector.scorer_, tinted_images(6, SIZE, SIZE, 1)[0]
    assert scorer.patches.side == SIZE // 8
    large = mcl_tf.views.prepare(images, 2 * SIZE)
    parts = scorer.measure_parts(large)[2]
    unit = dict(zip(scorer.part_names, scorer.standardization.numpy(), strict=True))
    scaled = {name: (parts[name] - unit[name][0]) / unit[name][1] for name in ("texture", "patches", "distance")}
    local = scaled["texture"] + scaled["patches"]
    image = (scaled["distance"] - unit["image"][0]) / unit["image"][1]
    expected = local if score == "local" else local + image
    np.testing.assert_allclose(detector.decision_function(images), expected, rtol=1e-4, atol=1e-3)
    detector.save(tmp_path / "detector")
    loaded = mcl_tf.AnomalyDetector.load(tmp_path / "detector")
    np.testing.assert_array_equal(loaded.decision_function(images), detector.decision_function(images))


@pytest.mark.parametrize("pooled", [True, False])
def test_the_layers_of_an_encoder_may_have_any_names(pooled, save):
    """Those that Keras gives by itself, too, which begin anew in every process."""
    inputs = layers.Input((SIZE, SIZE, 3), name="images")
    maps = layers.Activation("relu", name="activation")(layers.Conv2D(4, 3, 4, name="vector")(inputs))
    outputs = layers.GlobalAveragePooling2D(name="global_average_pooling2d")(maps) if pooled else maps
    path = save(tf.keras.Model(inputs, [outputs, layers.Flatten(name="joined")(maps)], name="encoder"))
    tf.keras.backend.clear_session()
    encoder = pretrained.load_encoder(path, SIZE)
    names = [layer.name for layer in encoder.layers]
    assert len(set(names)) == len(names)
    path = save(encoder)
    assert pretrained.load_encoder(path, SIZE).output_shape == encoder.output_shape


@pytest.mark.slow
def test_an_encoder_that_is_trained_from_scratch_has_no_places():
    scorer = fit(encoder="small", width=0.25, score="both", detail_size=32, max_steps=1).scorer_
    assert scorer.texture is not None
    assert scorer.patches is None


# Encoders of keras.applications.

APPLICATION = "mobilenet_v3_small"  # the smallest


@pytest.fixture(scope="module")
def application():
    """The smallest one with random weights, for 32 pixels."""
    return networks.build_encoder(ModelConfig(encoder=APPLICATION), 32, seed=5)


def test_an_application_maps_images_to_vectors(application, rng):
    assert application.input_shape == (None, 32, 32, 3)
    assert application.output_shape == (None, 576)  # Howard et al., "Searching for MobileNetV3", table 2
    found = application(rng.random((2, 32, 32, 3), np.float32))
    assert (found.dtype, found.shape) == (tf.float32, (2, 576))
    assert np.isfinite(found).all()


def test_random_weights_follow_from_the_seed_only(application):
    tf.keras.utils.set_random_seed(9)
    same = networks.build_encoder(ModelConfig(encoder=APPLICATION), 32, seed=5).get_weights()
    for a, b in zip(application.get_weights(), same, strict=True):
        np.testing.assert_array_equal(a, b)
    other = networks.build_encoder(ModelConfig(encoder=APPLICATION), 32, seed=6).get_weights()
    kernels = [(a, b) for a, b in zip(same, other, strict=True) if a.ndim > 1]
    assert len(kernels) > 30
    assert all((a != b).mean() > 0.99 for a, b in kernels)


def test_an_application_with_random_weights_sees_standardized_images(application):
    (standardization,) = layers_of(application, ImageStandardization)
    assert (standardization.mean, standardization.deviation) == (0.45, 0.225)  # those of ImageNet's grey levels
    plain = networks.build_encoder(ModelConfig(encoder=APPLICATION, standardize=False), 32)
    assert not layers_of(plain, ImageStandardization)


def test_an_application_with_random_weights_trains_its_batch_normalization(application):
    assert all(layer.trainable for layer in layers_of(application, layers.BatchNormalization))


@pytest.fixture(scope="module")
def weights_file(application, tmp_path_factory):
    """A file of weights without the classifier, as Keras writes it."""
    path = tmp_path_factory.mktemp("weights") / "mine_notop.weights.h5"
    build = tf.keras.applications.MobileNetV3Small
    model = build(include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg")
    model.set_weights(application.get_weights())
    model.save_weights(path)
    return str(path)


def test_weights_from_a_file_are_those_of_the_encoder(weights_file, application):
    """It is trained: batch normalization is held, and it sees the images that it was trained on."""
    encoder = networks.build_encoder(ModelConfig(encoder=APPLICATION, encoder_weights=weights_file), 32)
    for a, b in zip(encoder.get_weights(), application.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not any(layer.trainable for layer in layers_of(encoder, layers.BatchNormalization))
    assert not layers_of(encoder, ImageStandardization)


@pytest.mark.parametrize("name", pretrained._APPLICATIONS)
@pytest.mark.parametrize("size", [16, 31])
def test_images_that_are_too_small_are_refused(size, name):
    with pytest.raises(UsageError, match=f"{name} needs an image_size of at least 32. Received: {size}"):
        pretrained.build_application(name, size, "")


@pytest.mark.skipif(compat.KERAS_3, reason="Keras 3 prepares the images of ConvNeXt")
def test_convnext_is_refused_where_keras_ignores_its_preprocessing():
    with pytest.raises(UsageError, match="convnext_tiny needs Keras 3"):
        pretrained.build_application("convnext_tiny", 32, "")


def test_weights_that_are_no_file_are_refused():
    with pytest.raises(UsageError, match="must be imagenet or a file. Received: nowhere.h5, which does not exist"):
        pretrained.build_application(APPLICATION, 32, "nowhere.h5")


def test_a_file_of_other_weights_is_refused_in_one_line(tmp_path):
    path = tmp_path / "other.weights.h5"
    one_vector().save_weights(path)
    with pytest.raises(UsageError, match="The weights of mobilenet_v3_small are not available: ") as error:
        pretrained.build_application(APPLICATION, 32, str(path))
    assert str(error.value).endswith(f"Received: {path}")
    assert "\n" not in str(error.value)


def test_imagenet_without_a_network_is_refused_in_one_line(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("URL fetch failure on https://storage.googleapis.com:\nName or service not known")

    module = importlib.import_module(tf.keras.applications.MobileNetV3Small.__module__)
    owner = module.file_utils if hasattr(module, "file_utils") else module.data_utils  # Keras 3, Keras 2
    monkeypatch.setattr(owner, "get_file", fail)
    with pytest.raises(UsageError, match="are not available: URL fetch failure .* copy the file") as error:
        pretrained.build_application(APPLICATION, 32, "imagenet")
    assert "~/.keras/models" in str(error.value)
    assert str(error.value).endswith("Received: imagenet")
    assert "\n" not in str(error.value)


def test_weights_for_an_encoder_that_takes_none_are_refused():
    with pytest.raises(UsageError, match="encoder_weights needs one of the encoders .* Received: small"):
        networks.build_encoder(ModelConfig(encoder="small", encoder_weights="imagenet"), 32)


def test_an_encoder_from_a_file_keeps_its_own_weights(save):
    """The preset `pretrained` asks for those of ImageNet, and a file may replace its encoder."""
    path = save(sequential())
    found = networks.build_encoder(ModelConfig(encoder=path, encoder_weights="imagenet"), SIZE)
    for mine, theirs in zip(found.get_weights(), pretrained.load_encoder(path, SIZE).get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_resnet50_is_ours_without_weights():
    encoder = build_model(Config().replace(encoder="resnet50", width=0.125, projection_hidden=8), SIZE).encoder
    assert layers_of(encoder, SynchronizedBatchNormalization)
    assert not layers_of(encoder, layers.ZeroPadding2D)  # as in the network of Keras


@pytest.mark.slow
def test_resnet50_of_keras_sees_images_as_keras_prepares_them(rng):
    """Its channels are blue, green and red, each minus its mean over ImageNet."""
    images = rng.random((2, 32, 32, 3), np.float32)
    encoder = pretrained.build_application("resnet50", 32, "")
    (rescaling,) = layers_of(encoder, layers.Rescaling)
    found = tf.keras.Model(encoder.inputs[0], rescaling.output)(images)
    expected = tf.keras.applications.resnet50.preprocess_input(255.0 * images)
    np.testing.assert_allclose(found, expected, atol=1e-3)  # of values up to 151


@pytest.mark.slow
def test_a_detector_with_an_application_is_saved_and_loaded(tmp_path):
    images = tinted_images(24, 32, 32)[0]
    detector = mcl_tf.AnomalyDetector(encoder=APPLICATION, **{**OPTIONS, "image_size": 32, "max_steps": 1})
    detector.fit(images, verbose=0)
    detector.save(tmp_path / "detector")
    loaded = mcl_tf.AnomalyDetector.load(tmp_path / "detector")
    np.testing.assert_array_equal(loaded.decision_function(images), detector.decision_function(images))


# Random numbers.


def with_dropout():
    inputs = layers.Input((SIZE, SIZE, 3))
    dropped = layers.Dropout(0.5)(layers.Conv2D(4, 3, 4)(inputs))
    return tf.keras.Model(inputs, layers.GlobalAveragePooling2D()(dropped))


@pytest.mark.parametrize("kind", ["file", "application"])
def test_encoders_leave_the_callers_generators_as_they_are(kind, save):
    path = save(with_dropout())
    before = random.getstate(), repr(np.random.get_state())
    if kind == "file":
        pretrained.load_encoder(path, SIZE)
    else:
        pretrained.build_application("mobilenet_v3_small", 32, "")
    assert (random.getstate(), repr(np.random.get_state())) == before


def test_dropout_of_an_encoder_follows_from_the_seed(save):
    path, images = save(with_dropout()), tf.ones((1, SIZE, SIZE, 3))
    first, again, other = (
        pretrained.load_encoder(path, SIZE, seed=seed)(images, training=True).numpy() for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(again, first)
    assert not np.array_equal(other, first)


OTHER_SETTINGS = ("float16", "channels_first", "mixed_bfloat16")


def test_global_settings_of_keras_change_no_encoder_of_a_file(keras_settings, tmp_path):
    feature_map().save(tmp_path / "mine.keras")  # its map is averaged by a layer that load_encoder adds
    config = ModelConfig(encoder=str(tmp_path / "mine.keras"))
    images = tf.random.stateless_uniform([2, SIZE, SIZE, 3], [0, 1])
    expected = networks.build_encoder(config, SIZE)(images)
    keras_settings(*OTHER_SETTINGS)
    np.testing.assert_array_equal(networks.build_encoder(config, SIZE)(images), expected)


@pytest.mark.slow
def test_global_settings_of_keras_change_no_application(keras_settings):
    config = ModelConfig(encoder="mobilenet_v3_small")
    images = tf.random.stateless_uniform([2, 32, 32, 3], [0, 1])
    expected = networks.build_encoder(config, 32)(images)
    keras_settings(*OTHER_SETTINGS)
    np.testing.assert_array_equal(networks.build_encoder(config, 32)(images), expected)
