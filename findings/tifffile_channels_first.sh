#!/usr/bin/env bash
# The number of channels decides how tifffile lays an array of channels out, and what Pillow then makes of the file.
#
# Versions: tifffile 2026.3.3, Pillow 12.3.0, numpy 2.4.6.
# The guess that missed: `imwrite(file, array)` with an array (C, H, W) writes the same kind of file for any C.
# Seen: without `photometric`, 3 channels become *one* page of planar RGB, 4 channels one page of RGB whose fourth is
# marked as transparency (ExtraSamples 2), and 2 or 5 channels as many grey pages. Pillow gives RGB and RGBA for 3 and
# 4, the first channel alone for 2 and 5, without a word; blended onto a background, three channels are mixed with
# the fourth. A reader that was tried with 3 channels was tried with neither of the others.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet tifffile==2026.3.3 pillow==12.3.0 numpy==2.4.6
cd "$work" && venv/bin/python -W ignore - <<'PY'
import numpy as np
import tifffile
from PIL import Image

seen = {}
for channels in (2, 3, 4, 5):
    array = np.stack([np.full((40, 60), 30 * k + 20, dtype=np.uint8) for k in range(channels)])
    tifffile.imwrite("channels.tif", array)
    with tifffile.TiffFile("channels.tif") as file:
        page = file.pages[0]
        layout = (len(file.pages), page.samplesperpixel, int(page.photometric), list(map(int, page.extrasamples)))
    with Image.open("channels.tif") as image:
        pillow = (image.mode, image.n_frames)
    seen[channels] = (*layout, *pillow)
    print(f"{channels} channels: pages, samples, photometric, extra samples {layout}; Pillow: mode, frames {pillow}")
grey, rgb = 1, 2
assert seen == {
    2: (2, 1, grey, [], "L", 2),
    3: (1, 3, rgb, [], "RGB", 1),
    4: (1, 4, rgb, [2], "RGBA", 1),
    5: (5, 1, grey, [], "L", 5),
}
PY
