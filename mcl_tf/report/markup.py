"""Text and numbers as HTML, and the files that pages are made of."""

from __future__ import annotations

import html
import importlib.resources

from mcl_tf.errors import printable

_GAP = "\N{NO-BREAK SPACE}"


def resource(file: str) -> str:
    """Return the content of a file of this package."""
    return importlib.resources.files(__package__).joinpath(file).read_text("utf-8")


def text(value) -> str:
    """Return any text as HTML, for contents and attributes; names of files and classes may hold anything."""
    return html.escape(printable(str(value)))


def name(value) -> str:
    """Return a name as HTML. It may break after a slash, and its direction of writing does not reach other text."""
    return f"<bdi>{text(value).replace('/', '/<wbr>')}</bdi>"


def percent(count: int, total: int) -> str:
    """Return a share of images as text, rounded half up as `page.js` does; a dash if there are none."""
    return f"{(2000 * count + total) // (2 * total) / 10:.1f}{_GAP}%" if total else "–"


def share(count: int, total: int) -> str:
    """Return a share of images with the two numbers as text, e.g. "15.3 % (9 of 59)"."""
    return f"{percent(count, total)} ({count:,}{_GAP}of{_GAP}{total:,})"
