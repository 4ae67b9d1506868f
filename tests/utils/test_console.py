"""Terminal output: lines, log records, progress bars, and closed pipes."""

import logging
import os
import pty
import subprocess
import sys

import pytest

from mcl_tf.utils import console
from tests.helpers import ROOT


def start_python(code, **kwargs):
    """Start a script in a process that can import this project."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, **kwargs)


CLOSED_PIPE = """
import sys
from mcl_tf.utils.console import print_line
print_line("first")
sys.stdin.readline()  # until the reader has closed the pipe
for number in range(3):
    print_line(f"line {number}")
    print("printed", flush=True)
sys.stdout.flush()
print("still running", file=sys.stderr)
"""


def test_closed_pipe_discards_further_output():
    pipe = subprocess.PIPE
    process = start_python(CLOSED_PIPE, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout.readline() == "first\n"
    process.stdout.close()
    process.stdin.write("\n")
    process.stdin.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert errors == "still running\n"


def test_print_line_prints_the_text_as_it_is(capsys):
    text = "[bold]12[/bold] of 'x' " + "long " * 60
    console.print_line(text)
    assert capsys.readouterr().out == f"{text}\n"


@pytest.mark.parametrize(
    ("level", "out", "err"),
    [
        (logging.DEBUG, "3 images\n", ""),
        (logging.INFO, "3 images\n", ""),
        (logging.WARNING, "Warning: 3 images\n", ""),
        (logging.ERROR, "", "3 images\n"),
        (logging.CRITICAL, "", "3 images\n"),
    ],
)
def test_handler_prints_records_by_level(level, out, err, capsys):
    record = logging.LogRecord("mcl_tf", level, __file__, 1, "%d images", (3,), None)
    console.ConsoleHandler().handle(record)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (out, err)


@pytest.mark.parametrize("visible", [True, False])
@pytest.mark.parametrize("total", [3, None])
def test_tracked_yields_the_items_and_prints_nothing_to_a_file(visible, total, capsys):
    assert list(console.tracked(iter("abc"), "Scoring", total, visible)) == ["a", "b", "c"]
    assert not console.is_terminal()
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


TERMINAL = """
from mcl_tf.utils import console
print(console.is_terminal())
for visible in (False, True):
    for item in console.tracked(range(3), f"Scoring {visible}", 3, visible):
        console.print_line(f"item {item}")
"""


def test_bar_is_shown_on_a_terminal_only_if_visible():
    ours, theirs = pty.openpty()
    process = start_python(TERMINAL, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
    os.close(theirs)
    output = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux's end of a terminal that its process has closed
            break
        if not part:
            break
        output += part
    os.close(ours)
    assert process.wait(timeout=60) == 0
    text = output.decode()
    assert text.startswith("True")
    assert "Scoring True" in text
    assert "3/3" in text
    assert "Scoring False" not in text
    assert text.count("item 2") == 2


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.2, "3 s"), (89, "89 s"), (240, "4 min"), (7800, "2 h 10 min"), (3600, "1 h 0 min")]
)
def test_duration(seconds, text):
    assert console.duration(seconds) == text
