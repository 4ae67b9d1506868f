"""Checks that a wheel installs the package mcl_tf and nothing else: python wheel_contents.py WHEEL."""

import sys
import zipfile

names = zipfile.ZipFile(sys.argv[1]).namelist()
top = {name.split("/")[0] for name in names}
foreign = [name for name in top if name != "mcl_tf" and not name.endswith(".dist-info")]
expected = {
    "mcl_tf/losses.py",
    "mcl_tf/report/page.html",
    "mcl_tf/report/table.html",
    "mcl_tf/report/document.html",
    "mcl_tf/report/page.css",
    "mcl_tf/report/page.js",
}
if foreign or not expected <= set(names):
    sys.exit(f"The wheel should contain mcl_tf only, with {sorted(expected)}. Received: {sorted(top)}")
print(f"The wheel contains {len(names)} files in {', '.join(sorted(top))}.")
