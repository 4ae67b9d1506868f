"""The files for TensorFlow Serving, the gRPC client, and the server itself where it is installed."""

import base64
import concurrent.futures
import json
import os
import re
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
from tests.helpers import ROOT, SCORE_TOLERANCE, encode, find_free_port, mixed_images

DEPLOY = ROOT / "deploy"
BINARY = os.environ.get("TENSORFLOW_MODEL_SERVER", "")

# Names, numbers and types of the fields of messages that tensorflow-serving-api does not include, as in
# tensorflow_serving/config/monitoring_config.proto and servables/tensorflow/session_bundle_config.proto of
# tensorflow/serving. No package that can be installed beside TensorFlow has both.
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


def make_message(name):
    """Create an empty message of TensorFlow Serving."""
    file = descriptor_pb2.FileDescriptorProto(name="serving.proto", package="tensorflow.serving", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    types = {"bool": 8, "string": 9, "repeated int64": 3}
    for message_name, fields in MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for field_name, number, kind in fields:
            label = 3 if kind.startswith("repeated") else 1
            field = message.field.add(name=field_name, number=number, label=label, type=types.get(kind, 11))
            if kind not in types:
                field.type_name = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.serving.{name}"))()


def test_batching_allows_the_batch_sizes_of_the_warmup():
    parameters = text_format.Parse((DEPLOY / "batching.pbtxt").read_text(), make_message("BatchingParameters"))
    sizes = list(parameters.allowed_batch_sizes)
    assert sizes == sorted(sizes) == list(ServingConfig().serving_batch_sizes)
    assert sizes[-1] == parameters.max_batch_size.value  # the server refuses anything else
    assert parameters.num_batch_threads.value >= 1


def test_monitoring_is_enabled_at_the_documented_path():
    config = text_format.Parse((DEPLOY / "monitoring.pbtxt").read_text(), make_message("MonitoringConfig"))
    assert config.prometheus_config.enable
    assert config.prometheus_config.path in (DEPLOY / "docker-compose.yml").read_text()


def test_parser_refuses_unknown_fields():
    with pytest.raises(text_format.ParseError, match="max_batch"):
        text_format.Parse("max_batch: 3", make_message("BatchingParameters"))


def test_docker_compose_mounts_existing_files():
    text = (DEPLOY / "docker-compose.yml").read_text()
    mounted = re.findall(r"\./(\S+?):(\S+?):ro", text)
    assert mounted
    for name, target in mounted:
        assert (DEPLOY / name).is_file()
        assert re.search(rf"--\w+_file={target}\n", text)
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(text)["services"]["mcl"]["environment"] == {"MODEL_NAME": "mcl"}


@pytest.fixture(scope="module")
def images(tiny_detector, tmp_path_factory):
    """The paths of two image files, and their scores."""
    folder = tmp_path_factory.mktemp("images")
    images = mixed_images(3, 20, 26, 1)[1:]
    paths = [folder / f"{index}.png" for index in range(2)]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(encode(image))
    return paths, tiny_detector.decision_function(images)


def run_client(address, paths):
    command = [sys.executable, str(DEPLOY / "client.py"), address, *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def check_client(address, paths, expected, folder):
    """Check that the client prints the scores of good images and names a bad one."""
    process = run_client(address, paths)
    assert process.returncode == 0, process.stderr
    scores = [float(re.search(r"score ([\d.]+)", line)[1]) for line in process.stdout.splitlines()]
    np.testing.assert_allclose(scores, expected, atol=1.5e-4)  # it prints four decimals
    bad = folder / "bad.png"
    bad.write_bytes(b"bad")
    process = run_client(address, [paths[0], bad])
    assert process.returncode == 1
    assert "INVALID_ARGUMENT" in process.stderr
    assert "image_bytes[1] is not an image" in process.stderr


@pytest.mark.slow
def test_client_works_with_a_stand_in_for_the_server(tiny_export, images, tmp_path):
    """The same protocol and the same SavedModel, without the binary of the server."""
    grpc = pytest.importorskip("grpc")
    service = pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc")
    from tensorflow_serving.apis import predict_pb2

    signatures = tf.saved_model.load(str(tiny_export / "saved_model" / "1")).signatures
    contents = [path.read_bytes() for path in images[0]]
    signatures["serving_bytes"](image_bytes=tf.constant(contents))  # a server is warm, or the deadline may pass
    remaining = []

    class StandIn(service.PredictionServiceServicer):
        def Predict(self, request, context):
            remaining.append(context.time_remaining())
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
        check_client(f"localhost:{port}", *images, tmp_path)
    finally:
        server.stop(0)
    assert len(remaining) == 2
    assert max(remaining) < 6  # seconds; the client sets a deadline


def predict_by_rest(port, body):
    url = f"http://localhost:{port}/v1/models/mcl:predict"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=30) as answer:
        return json.load(answer)["predictions"]


def wait_for_server(server, port, log):
    """Wait until the model is available; the process must not end before."""
    for _ in range(120):
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://localhost:{port}/v1/models/mcl", timeout=5) as status:
                if "AVAILABLE" in status.read().decode():
                    return
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.skipif(not BINARY, reason="TENSORFLOW_MODEL_SERVER=/path/to/tensorflow_model_server is not set")
def test_server_scores_by_rest_and_grpc(tiny_export, images, tmp_path):
    paths, scores = images
    rest_port, grpc_port, log = find_free_port(), find_free_port(), tmp_path / "server.log"
    command = [BINARY, f"--rest_api_port={rest_port}", f"--port={grpc_port}", "--model_name=mcl"]
    command += [f"--model_base_path={tiny_export / 'saved_model'}"]
    command += [f"--monitoring_config_file={DEPLOY / 'monitoring.pbtxt'}"]
    with open(log, "w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        wait_for_server(server, rest_port, log)
        instances = [{"image_bytes": {"b64": base64.b64encode(path.read_bytes()).decode()}} for path in paths]
        request = {"signature_name": "serving_bytes", "instances": instances}
        found = [row["score"] for row in predict_by_rest(rest_port, request)]
        np.testing.assert_allclose(found, scores, atol=SCORE_TOLERANCE)
        check_client(f"localhost:{grpc_port}", paths, scores, tmp_path)
        assert len(predict_by_rest(rest_port, request)) == 2  # a bad image does no harm
    finally:
        server.terminate()
        server.wait(30)
