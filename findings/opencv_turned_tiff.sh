#!/usr/bin/env bash
# cv2.imread returns None for a TIFF that an Orientation tag turns by a quarter, unless the picture is square; cv2.imdecode
# reads the same bytes; and neither turns them, though both turn PNG files.
#
# Versions: opencv-python-headless 4.10.0.84 (before), 4.11.0.86 and 5.0.0.93 (since), Pillow 12.3.0.
# The guess that missed: imread(file) is imdecode(bytes of the file), and IMREAD_COLOR applies the orientation as its
# documentation says, whatever the format.
# Seen, for orientations 1 to 8 of a picture of 24 x 40 (raw: as stored; turned: as Pillow's exif_transpose):
#   4.10  TIFF imread raw for all;                imdecode raw for all;  PNG turned
#   4.11  TIFF imread raw for 1-4, None for 5-8;  imdecode raw for all;  PNG turned
#   5.0   the same as 4.11; a square picture is raw for all, so tests on square pictures do not notice.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
for version in 4.10.0.84 4.11.0.86 5.0.0.93; do
  python3 -m venv "$work/$version"
  "$work/$version/bin/pip" install --quiet "opencv-python-headless==$version" pillow==12.3.0
done
cat > "$work/read.py" <<'PY'
import sys

import cv2
import numpy as np
from PIL import Image, ImageOps


def seen(height, width, ending):
    """How imread and imdecode read each orientation."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    imread, imdecode = [], []
    for orientation in range(1, 9):
        name = f"{orientation}.{ending}"
        exif = Image.Exif()
        exif[274] = orientation
        picture.save(name, **({"tiffinfo": {274: orientation}} if ending == "tif" else {"exif": exif}))
        stored = np.asarray(Image.open(name))
        turned = np.asarray(ImageOps.exif_transpose(Image.open(name)))
        for words, image in (
            (imread, cv2.imread(name, cv2.IMREAD_COLOR)),
            (imdecode, cv2.imdecode(np.fromfile(name, np.uint8), cv2.IMREAD_COLOR)),
        ):
            if image is None:
                words.append("None")
            elif np.array_equal(image[..., ::-1], stored):
                words.append("raw")
            elif np.array_equal(image[..., ::-1], turned):
                words.append("turned")
            else:
                words.append("other")
    return imread, imdecode


before = cv2.__version__.startswith("4.10")
for shape, ending in (((24, 40), "tif"), ((32, 32), "tif"), ((24, 40), "png")):
    imread, imdecode = seen(*shape, ending)
    print(cv2.__version__, shape, ending, "imread", imread, "imdecode", imdecode)
    if ending == "png":
        assert imread == imdecode == ["raw"] + ["turned"] * 7
    else:
        assert imdecode == ["raw"] * 8
        wide = shape[0] != shape[1]
        assert imread == (["raw"] * 4 + ["None"] * 4 if wide and not before else ["raw"] * 8)
PY
cd "$work"
for version in 4.10.0.84 4.11.0.86 5.0.0.93; do "$version/bin/python" read.py 2> /dev/null; done
