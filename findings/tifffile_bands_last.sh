#!/usr/bin/env bash
# tifffile writes an array (H, W, C) as H pages of W rows and C columns once C is no number of colours.
#
# Versions: tifffile 2026.3.3, Pillow 12.3.0, numpy 2.4.6.
# The guess that missed: an image with its channels last is one page with C samples a pixel, for any C.
# Seen: (40, 30, 3) and (40, 30, 4) become one page of 40 × 30 with 3 or 4 samples; (40, 30, 2) and (40, 30, 12) become 40
# grey pages of 30 rows and 2 or 12 columns. tifffile gives the array back, because it notes the shape in the
# description; every other reader sees 40 small pictures. `planarconfig="contig"` with `photometric` writes samples.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet tifffile==2026.3.3 pillow==12.3.0 numpy==2.4.6
cd "$work" && venv/bin/python -W ignore - <<'PY'
import numpy as np
import tifffile
from PIL import Image

seen = {}
for bands in (2, 3, 4, 12):
    array = np.random.default_rng(0).integers(0, 256, (40, 30, bands), dtype=np.uint8)
    tifffile.imwrite("bands.tif", array)
    assert np.array_equal(tifffile.imread("bands.tif"), array)
    with tifffile.TiffFile("bands.tif") as file:
        page = file.pages[0]
        layout = (len(file.pages), page.imagelength, page.imagewidth, page.samplesperpixel)
    with Image.open("bands.tif") as image:
        pillow = (image.n_frames, image.size)
    seen[bands] = (layout, pillow)
    print(f"(40, 30, {bands}): pages, rows, columns, samples {layout}; Pillow: frames, size {pillow}")
assert seen == {
    2: ((40, 30, 2, 1), (40, (2, 30))),
    3: ((1, 40, 30, 3), (1, (30, 40))),
    4: ((1, 40, 30, 4), (1, (30, 40))),
    12: ((40, 30, 12, 1), (40, (12, 30))),
}
tifffile.imwrite("samples.tif", array, photometric="minisblack", planarconfig="contig")
with tifffile.TiffFile("samples.tif") as file:
    assert (len(file.pages), file.pages[0].samplesperpixel) == (1, 12)
PY
