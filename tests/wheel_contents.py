"""Says no to a wheel that would put anything but mcl_tf into site-packages: python wheel_contents.py WHEEL."""

import sys
import zipfile

names = zipfile.ZipFile(sys.argv[1]).namelist()
top = {name.split("/")[0] for name in names}
strange = [name for name in top if name != "mcl_tf" and not name.endswith(".dist-info")]
if strange or "mcl_tf/losses.py" not in names:
    sys.exit(f"The wheel should hold mcl_tf alone. Received: {sorted(top)}")
print(f"The wheel holds {len(names)} files, under {', '.join(sorted(top))}.")
