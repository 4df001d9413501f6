#!/usr/bin/env bash
# Pillow reads a TIFF palette of 8-bit entries as black, and planes of 16-bit CMYK without compression as other colours.
#
# Versions: Pillow 12.3.0, tifffile 2026.3.3, numpy 2.3.5.
# The guess that missed: Pillow follows libtiff's rule for palettes (`checkcmap`: entries below 256 have 8 bits), and
# refuses a layout that it does not read.
# Seen: the palette gives (0, 0, 0) everywhere; the planes give a mean error of tens of levels, while the same
# pixels interleaved, or compressed by zlib, are right. No error, no warning.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pillow==12.3.0 tifffile==2026.3.3 numpy==2.3.5
cd "$work" && venv/bin/python -W error - <<'PY'
import io

import numpy as np
import tifffile
from PIL import Image


def read(array, **how):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **how)
    with Image.open(io.BytesIO(buffer.getvalue())) as image:
        return image.copy()


random = np.random.default_rng(0)
grey = random.integers(0, 256, (40, 60), dtype=np.uint8)
ramp = np.tile(np.arange(256, dtype=np.uint16), (3, 1))
for scale in (257, 1):
    seen = np.asarray(read(grey, photometric="palette", colormap=ramp * scale).convert("L"))
    print(f"palette, entries to {255 * scale}: levels {seen.min()} to {seen.max()}")
    assert seen.max() == (0 if scale == 1 else grey.max())
inks = random.integers(0, 256, (40, 60, 4), dtype=np.uint8)
deep = inks.astype(np.uint16) * 257
planes = np.ascontiguousarray(np.moveaxis(deep, 2, 0))
for words, array, how, right in (
    ("interleaved", deep, {"planarconfig": "contig"}, True),
    ("planes", planes, {"planarconfig": "separate"}, False),
):
    seen = np.asarray(read(array, photometric="separated", **how))
    error = np.abs(seen.astype(int) - inks).mean()
    print(f"16-bit CMYK, {words}: mean error {error:.1f}")
    assert (error == 0) == right
PY
