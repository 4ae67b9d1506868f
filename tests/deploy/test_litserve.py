"""The HTTP server of the extra `http`: answers under load, refusals in one line, and a clean end."""

import base64
import concurrent.futures
import http.client
import importlib.util
import json
import os
import queue
import re
import runpy
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from mcl_tf import calibration
from mcl_tf.errors import UsageError
from tests.helpers import CLASS_NAMES, ROOT, SCORE_TOLERANCE, encode, find_free_port, mixed_images

SERVER = ROOT / "deploy" / "litserve" / "server.py"
SECONDS, CLIENTS, MAX_BYTES = 15, 8, 100_000
needs_extra = pytest.mark.skipif(
    not (importlib.util.find_spec("litserve") and importlib.util.find_spec("python_multipart")),
    reason="needs the extra `http`",
)


def run_server(*arguments):
    """Run the server, which refuses to start; return exit code and standard error."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=120)
    return process.returncode, process.stderr


def ask(port, body, kind):
    """Send one request; return status and answer."""
    connection = http.client.HTTPConnection("localhost", port, timeout=60)
    try:
        connection.request("POST", "/predict", body, {"Content-Type": kind})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def as_form(content, name='; filename="a"'):
    """Return the body of a form with one part, and its type."""
    head = f'--edge\r\nContent-Disposition: form-data; name="image"{name}\r\n\r\n'
    return head.encode() + content + b"\r\n--edge--\r\n", "multipart/form-data; boundary=edge"


def as_json(content):
    """Return the body of a request in JSON, and its type."""
    return json.dumps({"image_bytes": base64.b64encode(content).decode()}), "application/json"


def as_body(content):
    """Return the content as it is, and a type that the server need not know."""
    return content, "application/x-www-form-urlencoded"  # that of curl


def is_ready(port):
    connection = http.client.HTTPConnection("localhost", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.fixture(scope="module")
def server(tiny_export, tmp_path_factory):
    """A running server of the newest version: its port, its process and the file with its output."""
    port, log = find_free_port(), tmp_path_factory.mktemp("litserve") / "server.log"
    command = [sys.executable, str(SERVER), f"--saved_model={tiny_export / 'saved_model'}", f"--port={port}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(log, "w") as file:
        process = subprocess.Popen([*command, f"--max_bytes={MAX_BYTES}"], stdout=file, stderr=file, env=environment)
    try:
        end = time.monotonic() + 120
        while not is_ready(port):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.2)
        yield port, process, log
    finally:
        process.kill()


def run_load(port, requests, seconds):
    """Let several clients send random requests.

    Args:
      port: that of the server.
      requests: list of (body, type).
      seconds: how long to send.

    Returns:
      [(index of the request, status, answer, seconds)].
    """
    end = time.monotonic() + seconds

    def run_client(seed):
        rng, found = np.random.default_rng(seed), []
        while time.monotonic() < end:
            index, begin = rng.integers(len(requests)), time.monotonic()
            found.append((index, *ask(port, *requests[index]), time.monotonic() - begin))
        return found

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        return [answer for answers in pool.map(run_client, range(CLIENTS)) for answer in answers]


@pytest.mark.slow
@needs_extra
def test_every_request_is_answered_under_load_and_the_server_ends_cleanly(server, tiny_detector):
    port, process, log = server
    images = mixed_images(6, 20, 26, 1)
    contents = [encode(image) for image in images]
    good = [form(content) for content in contents for form in (as_body, as_form, as_json)]
    scores = np.repeat(tiny_detector.decision_function(images), 3)
    bad = [
        (as_body(contents[0][:60]), 422, "The image is a PNG that cannot be decoded"),
        (as_json(b"text"), 422, "The image is not an image of a known format"),
        (as_form(b""), 422, "The image is empty"),
        (as_form(b"text", name=""), 422, "The request needs a body that is an image, .*: a form without a file"),
        ((b'{"image": ""}', "application/json"), 422, "The request needs .*: JSON, KeyError: 'image_bytes'"),
        ((b'{"image_bytes": "%"}', "application/json"), 422, "The request needs .*: JSON, Error: "),
        (as_body(bytes(MAX_BYTES + 1)), 413, "Payload too large"),
    ]
    found = run_load(port, [*good, *(request for request, *_ in bad)], SECONDS)
    assert {index for index, *_ in found} == set(range(len(good) + len(bad)))
    for index, status, answer, _ in found:
        if index >= len(good):
            _, expected, message = bad[index - len(good)]
            assert status == expected
            assert re.match(message, answer["detail"])
            continue
        assert status == 200, answer
        assert answer["score"] == pytest.approx(scores[index], abs=SCORE_TOLERANCE)
        assert answer["is_anomaly"] == (answer["score"] > tiny_detector.threshold_)
        p_value = calibration.p_values(tiny_detector.calibration_scores_, [answer["score"]])
        assert answer["p_value"] == pytest.approx(p_value[0])
        assert answer["class_name"] == CLASS_NAMES[answer["nearest_class"]]
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert "Traceback" not in log.read_text()


@needs_extra
def test_wrong_values_are_refused():
    parse = runpy.run_path(str(SERVER))["parse"]
    for argument, message in (
        ("--port=80", "port must be an integer from 1024 to 65535. Received: 80"),
        ("--batch_size=1", "batch_size must be an integer from 2 to 4096. Received: 1"),
        ("--timeout=0", "timeout must be a number above 0. Received: 0.0"),
    ):
        with pytest.raises(UsageError, match=re.escape(message)):
            parse(["--saved_model=model", argument])
    assert parse(["--saved_model=model"]).port == 8000


@pytest.mark.slow
@needs_extra
def test_a_missing_saved_model_is_one_line(tmp_path):
    code, output = run_server(str(SERVER), f"--saved_model={tmp_path}", f"--port={find_free_port()}")
    assert code == 2
    assert re.fullmatch(r"A SavedModel is a folder with saved_model.pb, .* Received: \S+\n", output)


def test_without_the_extra_the_server_names_it():
    code = f"import runpy, sys; sys.modules['litserve'] = None; runpy.run_path({str(SERVER)!r}, run_name='__main__')"
    code, output = run_server("-c", code)
    assert code == 2
    assert re.match(r'The server needs the extra `http`: pip install -e "\.\[http\]"\. Received: .+\n$', output)


@needs_extra
def test_a_batch_has_all_requests_that_wait_and_leaves_out_those_that_are_late():
    loop = runpy.run_path(str(SERVER))["WaitingLoop"]()
    api = types.SimpleNamespace(max_batch_size=3, request_timeout=30.0)
    now, waiting = time.monotonic(), queue.Queue()
    for number in range(5):
        waiting.put((0, number, now - (60 if number == 1 else 0), f"image {number}"))
    assert loop.get_batch_requests(api, waiting, None) == (
        [(0, 0, "image 0"), (0, 2, "image 2"), (0, 3, "image 3")],
        [(0, 1)],
    )
    assert loop.get_batch_requests(api, waiting, None) == ([(0, 4, "image 4")], [])
