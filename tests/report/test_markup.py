"""Text and numbers as HTML."""

import pytest

from mcl_tf.report import markup


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("\" onerror='x' &amp;", "&quot; onerror=&#x27;x&#x27; &amp;amp;"),
        ("two\nlines\udcff", "two\\nlines\\udcff"),
        (0.5, "0.5"),
    ],
)
def test_any_text_is_text(value, expected):
    assert markup.text(value) == expected


def test_a_name_is_isolated_and_breaks_after_slashes():
    assert markup.name("a/\u202eb<") == "<bdi>a/<wbr>\u202eb&lt;</bdi>"


@pytest.mark.parametrize(
    ("count", "total", "expected"),
    [(0, 3, "0.0 %"), (1, 3, "33.3 %"), (3, 3, "100.0 %"), (1, 16, "6.3 %"), (49, 400, "12.3 %"), (0, 0, "–")],
)
def test_percentages_round_half_up(count, total, expected):
    # 1/16 is 6.25 %, and 49/400 is 12.25 %.
    assert markup.percent(count, total).replace("\N{NO-BREAK SPACE}", " ") == expected


def test_a_share_has_its_numbers():
    assert markup.share(1234, 5000).replace("\N{NO-BREAK SPACE}", " ") == "24.7 % (1,234 of 5,000)"
