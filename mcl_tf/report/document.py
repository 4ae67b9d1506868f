"""What the pages of runs and of tables share: one file that fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import string

from mcl_tf.report.markup import resource, text
from mcl_tf.utils.atomic import atomic_file


def write_document(path, title: str, lead: str, sections: str, data: str = "", script: str = "") -> None:
    """Write an HTML document with the style of all pages.

    Args:
      path: the HTML file.
      title: text.
      lead: HTML of what it says first.
      sections: HTML of the rest.
      data: JSON, which the script finds in the element `counts`.
      script: the script, if there is one. The browser runs it alone.

    Raises:
      OSError: the file cannot be written.
    """
    source, scripts = "", ""
    if script:
        source = f"; script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        scripts = f'<script type="application/json" id="counts">{data}</script>\n<script>{script}</script>\n'
    document = string.Template(resource("document.html")).substitute(
        title=text(title),
        style=resource("page.css"),
        lead=lead,
        sections=sections,
        script_source=source,
        scripts=scripts,
    )
    with atomic_file(path, encoding="utf-8", newline="\n") as file:
        file.write(document)
