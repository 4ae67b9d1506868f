"""The files for TF Serving against its messages, the gRPC client, and the real server where there is one."""

import base64
import concurrent.futures
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

from mcl_tf.config import ServingConfig

SERVING = pathlib.Path(__file__).resolve().parents[2] / "deploy"
BINARY = os.environ.get("TENSORFLOW_MODEL_SERVER", "")

# Names, numbers and types of the fields of two messages that tensorflow-serving-api does not ship, compared with
# tensorflow_serving/config/monitoring_config.proto and servables/tensorflow/session_bundle_config.proto of
# tensorflow/serving; no package that could stand beside TensorFlow has both.
WRAPPED = ".google.protobuf.Int64Value"
MESSAGES = {
    "PrometheusConfig": [("enable", 1, "bool"), ("path", 2, "string")],
    "MonitoringConfig": [("prometheus_config", 1, ".tensorflow.serving.PrometheusConfig")],
    "BatchingParameters": [
        ("max_batch_size", 1, WRAPPED),
        ("batch_timeout_micros", 2, WRAPPED),
        ("max_enqueued_batches", 3, WRAPPED),
        ("num_batch_threads", 4, WRAPPED),
        ("thread_pool_name", 5, ".google.protobuf.StringValue"),
        ("allowed_batch_sizes", 6, "repeated int64"),
        ("pad_variable_length_inputs", 7, "bool"),
    ],
}


def message(name):
    """An empty message of TF Serving's."""
    file = descriptor_pb2.FileDescriptorProto(name="serving.proto", package="tensorflow.serving", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    types = {"bool": 8, "string": 9, "repeated int64": 3}
    for title, fields in MESSAGES.items():
        made = file.message_type.add(name=title)
        for field, number, kind in fields:
            label = 3 if kind.startswith("repeated") else 1
            added = made.field.add(name=field, number=number, label=label, type=types.get(kind, 11))
            if kind not in types:
                added.type_name = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.serving.{name}"))()


def test_batching_parameters():
    parameters = text_format.Parse((SERVING / "batching.pbtxt").read_text(), message("BatchingParameters"))
    sizes = list(parameters.allowed_batch_sizes)
    assert sizes == sorted(sizes) == list(ServingConfig().serving_batch_sizes)
    assert sizes[-1] == parameters.max_batch_size.value  # the server refuses anything else
    assert parameters.num_batch_threads.value >= 1


def test_monitoring():
    config = text_format.Parse((SERVING / "monitoring.pbtxt").read_text(), message("MonitoringConfig"))
    assert config.prometheus_config.enable
    assert config.prometheus_config.path in (SERVING / "docker-compose.yml").read_text()


def test_a_field_that_is_not_there_does_not_parse():
    with pytest.raises(text_format.ParseError, match="max_batch"):
        text_format.Parse("max_batch: 3", message("BatchingParameters"))


def test_docker_compose_mounts_files_that_exist():
    text = (SERVING / "docker-compose.yml").read_text()
    mounted = re.findall(r"\./(\S+?):(\S+?):ro", text)
    assert mounted
    for name, target in mounted:
        assert (SERVING / name).is_file()
        assert re.search(rf"--\w+_file={target}\n", text)
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(text)["services"]["mcl"]["environment"] == {"MODEL_NAME": "mcl"}


@pytest.mark.slow
def test_embed_never_answers_not_a_number(tmp_path):
    """The network itself is broken here: a factor of its last layers, as a damaged file would leave it."""
    import test_saved_model as export

    import mcl_tf

    detector = mcl_tf.AnomalyDetector(**{**export.OPTIONS, "epochs": 0}, serving_batch_sizes=(1,))
    detector.fit(*export.tinted_pictures(24))
    network = detector.scorer_.network
    pictures = tf.constant(export.mixed_pictures(2, 20, 26, 1))
    whole = tf.saved_model.load(detector.export(tmp_path / "whole")).signatures["embed"]
    assert np.isfinite(whole(images=pictures)["embedding"]).all()
    # Infinite, for a ReLU may make 0 of not-a-number; normalised to length 1 it is none.
    normalisations = [layer for layer in network.layers if hasattr(layer, "gamma")]
    normalisations[-1].gamma.assign(np.full(normalisations[-1].gamma.shape, np.inf))
    broken = tf.saved_model.load(detector.export(tmp_path / "broken")).signatures["embed"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="no finite embedding for the picture at index"):
        broken(images=pictures)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A SavedModel as version 1, and two picture files with their scores."""
    import test_saved_model as export
    from test_serving import encoded

    import mcl_tf

    folder = tmp_path_factory.mktemp("server")
    detector = mcl_tf.AnomalyDetector(**export.OPTIONS).fit(*export.tinted_pictures(24))
    detector.export(folder / "saved_model", new_version=True)
    pictures = export.mixed_pictures(3, 20, 26, 1)[1:]
    for place, picture in enumerate(pictures):
        (folder / f"{place}.png").write_bytes(encoded(picture))
    return folder, detector.decision_function(pictures)


def ask(address, names):
    command = [sys.executable, str(SERVING / "client.py"), address, *map(str, names)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def check_client(address, folder, scores):
    done = ask(address, [folder / "0.png", folder / "1.png"])
    assert done.returncode == 0, done.stderr
    found = [float(re.search(r"score ([\d.]+)", line)[1]) for line in done.stdout.splitlines()]
    np.testing.assert_allclose(found, scores, atol=1.5e-4)  # four decimals are printed
    (folder / "bad.png").write_bytes(b"bad")
    done = ask(address, [folder / "0.png", folder / "bad.png"])
    assert done.returncode == 1
    assert "INVALID_ARGUMENT" in done.stderr
    assert "image_bytes[1] is no picture" in done.stderr


@pytest.mark.slow
def test_the_client_against_a_stand_in_for_the_server(folder):
    """The same protocol and the same SavedModel, without the server's binary."""
    grpc = pytest.importorskip("grpc")
    service = pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc")
    from tensorflow_serving.apis import predict_pb2

    folder, scores = folder
    signatures = tf.saved_model.load(str(folder / "saved_model" / "1")).signatures

    class StandIn(service.PredictionServiceServicer):
        def Predict(self, request, context):
            assert context.time_remaining() < 6  # the client sets a deadline
            inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
            try:
                answers = signatures[request.model_spec.signature_name](**inputs)
            except tf.errors.InvalidArgumentError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            response = predict_pb2.PredictResponse()
            for name, value in answers.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
            return response

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    service.add_PredictionServiceServicer_to_server(StandIn(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        check_client(f"localhost:{port}", folder, scores)
    finally:
        server.stop(0)


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def post(port, body):
    url = f"http://localhost:{port}/v1/models/mcl:predict"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=30) as answer:
        return json.load(answer)["predictions"]


@pytest.mark.slow
@pytest.mark.skipif(not BINARY, reason="TENSORFLOW_MODEL_SERVER=/path/to/tensorflow_model_server is not set")
def test_the_server_itself(folder):
    folder, scores = folder
    rest, grpc_port = free_port(), free_port()
    command = [BINARY, f"--rest_api_port={rest}", f"--port={grpc_port}", "--model_name=mcl"]
    command += [f"--model_base_path={folder / 'saved_model'}"]
    command += [f"--monitoring_config_file={SERVING / 'monitoring.pbtxt'}"]
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(120):
            assert server.poll() is None, (folder / "server.log").read_text()[-3000:]
            try:
                with urllib.request.urlopen(f"http://localhost:{rest}/v1/models/mcl", timeout=5) as status:
                    if "AVAILABLE" in status.read().decode():
                        break
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.5)
        instances = [
            {"image_bytes": {"b64": base64.b64encode((folder / f"{place}.png").read_bytes()).decode()}}
            for place in range(2)
        ]
        found = post(rest, {"signature_name": "serving_bytes", "instances": instances})
        np.testing.assert_allclose([row["score"] for row in found], scores, atol=1e-4)
        check_client(f"localhost:{grpc_port}", folder, scores)
        assert len(post(rest, {"signature_name": "serving_bytes", "instances": instances})) == 2  # unharmed
    finally:
        server.terminate()
        server.wait(30)
