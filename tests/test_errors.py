"""Messages of one line."""

import pytest
import tensorflow as tf

from mcl_tf.errors import TrainingInterrupted, UsageError, one_line, printable


@pytest.mark.parametrize(
    ("error", "limit", "expected"),
    [
        (ValueError("plain"), 200, "plain"),
        (ValueError("two\nlines,\t tabs"), 200, "two lines, tabs"),
        (ValueError(), 200, "ValueError"),
        (ValueError("x" * 300), 200, "x" * 200),
        (ValueError("x" * 300), None, "x" * 300),
        (OSError(28, "No space left on device", "a/file"), 200, "[Errno 28] No space left on device: 'a/file'"),
        (
            tf.errors.InvalidArgumentError(None, None, "{{function_node __wrapped__Op_device_/cpu:0}} wrong [Op:Op]"),
            200,
            "wrong [Op:Op]",
        ),
    ],
    ids=["plain", "lines", "empty", "long", "unlimited", "system", "tensorflow"],
)
def test_one_line(error, limit, expected):
    assert one_line(error, limit) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ü, 1.jpg", "ü, 1.jpg"),
        ("a\nb", "a\\nb"),
        ("a\r\x1b[31m\u2028b", "a\\r\\x1b[31m\\u2028b"),
        (b"\xff.jpg".decode("utf-8", "surrogateescape"), "\\udcff.jpg"),
    ],
    ids=["plain", "newline", "terminal codes", "not UTF-8"],
)
def test_printable(name, expected):
    assert printable(name) == expected
    printable(name).encode()


def test_errors_of_callers():
    assert issubclass(UsageError, ValueError)
    error = TrainingInterrupted("Stopped", 143)
    assert (str(error), error.code) == ("Stopped", 143)
