#!/usr/bin/env bash
# Colours of more than 8 bits become 8 bits in Pillow without a word, although it keeps the depth of grey ones.
#
# Versions: Pillow 12.3.0, imagecodecs 2026.3.6.
# The guess that missed: Pillow, which reads a 16-bit grey JPEG 2000 or PNG as I;16, refuses what it has no mode for.
# Seen: 16-bit RGB of JPEG 2000, PNG and PPM and 12-bit RGB of AVIF open as mode RGB with 8 bits, no error, no warning;
# of a picture whose numbers stay below 4096 of 65535 that leaves 16 levels, of one below 256 none.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pillow==12.3.0 imagecodecs==2026.3.6 numpy==2.3.5
cd "$work" && venv/bin/python -W error - <<'PY'
import io
import imagecodecs, numpy as np
from PIL import Image

grey = np.random.default_rng(0).integers(0, 4096, (64, 64), dtype=np.uint16)
rgb = np.dstack([grey, grey[::-1], grey[:, ::-1]])
files = {
    "JPEG 2000, grey": imagecodecs.jpeg2k_encode(grey, level=0, reversible=True),
    "PNG, grey": imagecodecs.png_encode(grey),
    "JPEG 2000, RGB": imagecodecs.jpeg2k_encode(rgb, level=0, reversible=True),
    "PNG, RGB": imagecodecs.png_encode(rgb),
    "PPM, RGB": b"P6\n64 64\n65535\n" + rgb.astype(">u2").tobytes(),
    "AVIF of 12 bits, RGB": imagecodecs.avif_encode(rgb, level=100, bitspersample=12),
}
for name, content in files.items():
    with Image.open(io.BytesIO(bytes(content))) as image:
        array = np.asarray(image)
    print(f"{name}: mode {image.mode}, {array.dtype}, {len(np.unique(array))} levels of {len(np.unique(grey))}")
    assert array.dtype == (np.uint16 if "grey" in name else np.uint8)
PY
