"""Serve a SavedModel over HTTP without TensorFlow Serving: python deploy/litserve/server.py --saved_model=DIR

    curl --data-binary @part.png localhost:8000/predict

The image is the body itself, the file of a form (`curl -F image=@part.png`), or base64 in JSON: {"image_bytes": "..."}.
The answer is JSON with score, is_anomaly, p_value, nearest_class and class_name. The status is 422 with the reason for
an image that cannot be scored, 413 for too large a body. GET /health answers 200 as soon as images can be scored.

It needs LitServe, which brings half as many packages as BentoML: pip install -e ".[http]"
"""

import argparse
import base64
import binascii
import json
import multiprocessing
import os
import platform
import signal
import sys
import time
from typing import Annotated

try:
    import litserve
    import python_multipart  # noqa: F401 - starlette imports it when it meets the first form
    from fastapi import Depends, HTTPException, Request
    from fastapi.responses import JSONResponse
    from litserve.loops.simple_loops import BatchedLoop
except ImportError as error:
    print(f'The server needs the extra `http`: pip install -e ".[http]". Received: {error}', file=sys.stderr)
    sys.exit(2)

from mcl_tf.errors import UsageError, one_line
from mcl_tf.utils.console import captured_messages

BODY = "a body that is an image, a form with a file, or JSON with image_bytes in base64"


async def read_image(request: Request) -> bytes:
    """Return the encoded image of a request, whatever form it has.

    Raises:
      HTTPException: 422, there is none.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with request.form(max_files=1) as form:
            for value in form.values():
                if hasattr(value, "read"):
                    return await value.read()
        raise HTTPException(422, f"The request needs {BODY}. Received: a form without a file")
    body = await request.body()
    if kind == "application/json":
        try:
            return base64.b64decode(json.loads(body)["image_bytes"], validate=True)
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise HTTPException(422, f"The request needs {BODY}. Received: JSON, {reason}") from None
    return body


class WaitingLoop(BatchedLoop):
    """Takes all requests that wait, and waits for one if there is none.

    A batch forms while the one before it is scored, so that no request waits for others. LitServe's own loop asks for
    requests a thousand times per second, also when there are none.
    """

    def get_batch_requests(self, lit_api, request_queue, transport):
        """Return ([(queue of the answer, request, content)], [(queue of the answer, request)] of those too late)."""
        batch, late = [], []
        waiting = self.get_request(request_queue)
        while waiting is not None:
            queue, identifier, since, content = waiting
            if time.monotonic() - since > lit_api.request_timeout:
                late.append((queue, identifier))
            else:
                batch.append((queue, identifier, content))
            waiting = self.get_request(request_queue, block=False) if len(batch) < lit_api.max_batch_size else None
        return batch, late


class ImageScorer(litserve.LitAPI):
    """Scores encoded images in batches, in a process of its own.

    Args:
      saved_model: a SavedModel, or the folder of its versions, whose newest one is used.
      batch_size: maximum number of images per call of the model.
    """

    def __init__(self, saved_model: str, batch_size: int):
        super().__init__(max_batch_size=batch_size, loop=WaitingLoop())
        self.saved_model = saved_model

    def setup(self, device):
        """Load the SavedModel and score one image, which builds what the first one needs."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
        try:
            self._load()
        except UsageError as error:
            print(one_line(error, None), file=sys.stderr, flush=True)
            os.close(2)  # LitServe would add the traceback
            os.open(os.devnull, os.O_WRONLY)
            raise

    def _load(self):
        with captured_messages():  # about absent GPUs
            import tensorflow as tf  # the other processes do without it

            tf.config.list_physical_devices()
        from mcl_tf import file_scoring
        from mcl_tf.data import image_files
        from mcl_tf.export import version_folders

        path = version_folders.find(self.saved_model)
        self.decode = image_files.make_decoder(*file_scoring.size_and_resize(path))
        scorer = file_scoring.load_scorer(path)
        self.score = lambda images: file_scoring.make_rows([""] * len(images), file_scoring.score_batch(scorer, images))
        with captured_messages():
            list(self.score(self.decode([b""])[0]))
        print(f"Serving {path}", flush=True)

    def decode_request(self, request: Annotated[bytes, Depends(read_image)]):
        """Return the bytes of the image."""
        return request

    def batch(self, inputs):
        """Return the images as they are; each has its own size."""
        return inputs

    def predict(self, x):
        """Return a row, or the reason why there is none, per encoded image."""
        images, reasons = self.decode(x)
        good = reasons == ""
        rows = self.score(images[good]) if good.any() else iter(())
        return [{"detail": f"The image {reason}"} if reason else next(rows) for reason in reasons]

    def encode_response(self, output):
        """Return the answer to one request; an exception would fail the whole batch."""
        output.pop("file", None)
        return JSONResponse(output, status_code=422 if "detail" in output else 200)


def stop(*_):
    """End the first process like Ctrl-C; in the others, the servers have handlers of their own."""
    if multiprocessing.parent_process() is None:
        raise KeyboardInterrupt


def parse(arguments) -> argparse.Namespace:
    """Parse the command line and check the ranges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    path = os.path.expanduser
    parser.add_argument("--saved_model", type=path, required=True, help="a SavedModel, or the folder of its versions")
    parser.add_argument("--host", choices=("127.0.0.1", "0.0.0.0", "::"), default="127.0.0.1", help="address to bind")
    parser.add_argument("--port", type=int, default=8000, help="1024 to 65535")
    parser.add_argument("--batch_size", type=int, default=32, help="maximum number of images scored at a time")
    parser.add_argument("--max_bytes", type=int, default=2**25, help="maximum size of a request")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds that a request may wait for its turn")
    options = parser.parse_args(arguments)
    for name, low, high in (("port", 1024, 65535), ("batch_size", 2, 4096), ("max_bytes", 1, 2**29)):
        if not low <= getattr(options, name) <= high:
            raise UsageError(f"{name} must be an integer from {low} to {high}. Received: {getattr(options, name)}")
    if not options.timeout > 0:
        raise UsageError(f"timeout must be a number above 0. Received: {options.timeout}")
    return options


def main(arguments=None) -> int:
    """Serve until SIGTERM or Ctrl-C, after which the requests in progress are answered.

    Returns:
      The exit code: 0 after one of these signals, 1 if the process that scores has died, 2 for bad input.
    """
    try:
        options = parse(arguments)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        # One process, which TensorFlow lets use all cores and GPUs.
        server = litserve.LitServer(
            ImageScorer(options.saved_model, options.batch_size),
            accelerator="cpu",
            timeout=options.timeout,
            max_payload_size=options.max_bytes,
        )
        server.run(options.host, options.port, log_level="warning", generate_client_file=False)
    except UsageError as error:
        print(one_line(error, None), file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before the server was ready
        pass
    except RuntimeError:  # the process that scores did not start, and has said why
        return 2
    except (EOFError, OSError):  # it has died later, and LitServe has logged that
        return 1
    finally:
        for process in multiprocessing.active_children():
            process.terminate()
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as in main.py
    sys.exit(main())
