"""Tables of results as HTML."""

import re

from mcl_tf.report.result_table import result_table

COLUMNS = ("normal", "AUROC", "AUROC, std", "images", "note")


def test_a_number_has_its_deviation_beside_it():
    html = result_table(COLUMNS, [("mean", 0.98764, 0.01, 12, None), ("mean", 0.5, None, None, "x")], bars=["AUROC"])
    assert re.findall(r'<th scope="col">(.*?)</th>', html) == ["normal", "AUROC", "images", "note"]
    assert re.findall(r"<span>(.*?)</span>", html) == ["0.9876 <small>± 0.0100</small>", "0.5000"]
    assert re.findall(r"width:([\d.]+)%", html) == ["98.76", "50.00"]
    assert re.findall(r"<td>([^<]*)</td>", html) == ["12", "", "", "x"]
    assert html.count('<tr class="mean">') == 1


def test_names_are_text():
    html = result_table(("<i>", "n"), [("<b>", "<u>")])
    assert not re.search("<[ibu]>", html)
    assert all(f"&lt;{letter}&gt;" in html for letter in "ibu")
