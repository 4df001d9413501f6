#!/usr/bin/env bash
# webdataset's writer takes keys with dots, and its reader gives fewer samples back than were written.
#
# Versions: webdataset 1.0.2, numpy 2.4.6.
# The guess that missed: what TarWriter writes under `__key__`, WebDataset gives back under `__key__`; a clash is an error.
# Seen: the writer names files KEY.EXTENSION, the reader takes a key to end at the *first* dot of the file's name. Tiles
# `slide1.x003` and `slide1.x004` become one sample `slide1` with the fields `x003.png`, `x003.cls`, `x004.png`,
# `x004.cls`: no error, no warning, one sample of two, and none has a field `png`.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet webdataset==1.0.2 numpy==2.4.6 pillow==12.3.0
cd "$work" && venv/bin/python - <<'PY'
import warnings

import numpy as np
import webdataset

keys = ["slide1.x003", "slide1.x004", "slide2.x001"]
with webdataset.TarWriter("tiles.tar") as writer:
    for number, key in enumerate(keys):
        writer.write({"__key__": key, "png": np.full((8, 8, 3), 40 * number, dtype=np.uint8), "cls": number})
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    samples = list(webdataset.WebDataset("tiles.tar", shardshuffle=False))
seen = [(sample["__key__"], sorted(name for name in sample if not name.startswith("__"))) for sample in samples]
print("written:", keys)
print("read:   ", seen)
print("warnings:", [str(warning.message) for warning in said if "dot" in str(warning.message) or "key" in str(warning.message)])
assert seen == [
    ("slide1", ["x003.cls", "x003.png", "x004.cls", "x004.png"]),
    ("slide2", ["x001.cls", "x001.png"]),
]
PY
