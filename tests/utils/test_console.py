"""Terminal output: lines, log records, progress bars, and closed pipes."""

import io
import logging
import os
import pty
import subprocess
import sys
import types

import pytest
from rich.errors import LiveError

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


# One bar at a time: rich before 14.1 refuses a second one.


@pytest.fixture
def old_rich_terminal(monkeypatch):
    """The output as a terminal, with the `set_live` of rich before 14.1; returns what is written."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    class OldConsole(console._Console):
        def set_live(self, live):
            if getattr(self, "shown", None) is not None:
                raise LiveError("Only one live display may be active at once")
            self.shown = live
            return True

        def clear_live(self):
            self.shown = None

    output = Terminal()
    monkeypatch.setattr(console, "_console", OldConsole(file=output, force_terminal=True, width=100))
    return output


def test_a_second_bar_is_not_drawn(old_rich_terminal):
    with console.progress("Training") as outer:
        outer.add_task("", total=2, note="")
        assert list(console.tracked(range(3), "Scoring", 3)) == [0, 1, 2]
        console.print_line("between")
        outer.refresh()  # still shown
    assert list(console.tracked(range(3), "Fitting", 3)) == [0, 1, 2]
    text = old_rich_terminal.getvalue()
    assert all(word in text for word in ("Training", "between", "Fitting"))
    assert "Scoring" not in text


@pytest.mark.parametrize(
    ("terminal", "variables", "expected"),
    [
        (True, {}, True),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
        (False, {"FORCE_COLOR": "1"}, False),
        (False, {"TTY_INTERACTIVE": "1"}, False),
    ],
)
def test_a_terminal_is_what_the_stream_says(terminal, variables, expected, monkeypatch):
    stream = types.SimpleNamespace(isatty=lambda: terminal, encoding="utf-8")
    environment = {"TERM": "xterm", **variables}
    monkeypatch.setattr(console, "_console", console._Console(file=stream, _environ=environment))
    assert console.is_terminal() == expected


# Streams that are closed, full, or of another encoding.


class Stream(io.TextIOWrapper):
    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding)

    def text(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


@pytest.mark.parametrize(
    ("encoding", "expected"), [("utf-8", "类 ü\n"), ("latin-1", "\\u7c7b ü\n"), ("ascii", "\\u7c7b \\xfc\n")]
)
def test_lines_are_escaped_where_the_output_cannot_encode_them(encoding, expected, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Stream(encoding))
    console.print_line("类 ü")
    assert sys.stdout.text() == expected


def test_a_process_without_output_prints_nothing(monkeypatch):
    closed = Stream("utf-8")
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stdout", stream)
        console.print_line("lost")
        assert not console.is_terminal()
    assert list(console.tracked("ab", "Scoring")) == ["a", "b"]


STREAMS = """
import os, sys
from mcl_tf.utils import console
console.open_standard_streams()
console.open_standard_streams()
file = open(sys.argv[1], "w")
assert file.fileno() > 2
print("类", flush=True)
os.write(2, b"lost")
with console.captured_messages():
    os.write(2, b"lost, too")
try:
    with console.captured_messages():
        os.write(2, b"the reason ")
        raise OSError
except OSError:
    print("an error", file=sys.stderr, flush=True)
"""


@pytest.mark.parametrize("closed", ["", "<&-", "2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_catch_the_output_of_files(closed, tmp_path):
    command = ["bash", "-c", f'"$@" {closed}', "bash", sys.executable, "-c", STREAMS, str(tmp_path / "file")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0
    assert result.stdout == ("" if " >&-" in f" {closed}" else "\\u7c7b\n")
    assert result.stderr == ("" if "2>&-" in closed else "lostthe reason an error\n")
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a device that is always full")
def test_a_full_disk_discards_further_output():
    with open("/dev/full", "w") as full:
        code = "from mcl_tf.utils.console import print_line\nfor _ in range(3): print_line('line')"
        process = start_python(code, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (process.communicate(timeout=60)[1], process.returncode) == ("", 0)


def test_messages_are_dropped_without_a_folder_for_temporary_files(monkeypatch, capfd):
    def fail():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(console.tempfile, "TemporaryFile", fail)
    with console.captured_messages():
        os.write(2, b"lost")
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"
