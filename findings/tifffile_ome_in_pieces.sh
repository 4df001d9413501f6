#!/usr/bin/env bash
# An OME-TIFF image whose planes lie in several files, read from memory by tifffile, has zeros in place of the others.
#
# Versions: tifffile 2026.3.3, numpy 2.3.5.
# The guess that missed: a file object without a folder, where the other files cannot be found, raises or warns by
# Python's warnings; or the series has the planes of this file alone.
# Seen: the series has the shape of the whole image and `asarray` fills what is missing with 0; logging alone says it.
# By its path the same file is read whole. Pillow gives the file's own plane.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet tifffile==2026.3.3 numpy==2.3.5
cd "$work" && venv/bin/python -W error - <<'PY' 2> /dev/null
import io
from uuid import uuid4

import numpy as np
import tifffile

picture = np.random.default_rng(0).integers(1, 4096, (2, 40, 60), dtype=np.uint16)
names, ids = ("a.ome.tif", "b.ome.tif"), [str(uuid4()) for _ in range(2)]
planes = "".join(
    f'<TiffData FirstC="{c}" IFD="0" PlaneCount="1"><UUID FileName="{names[c]}">urn:uuid:{ids[c]}</UUID></TiffData>'
    for c in range(2)
)
channels = "".join(f'<Channel ID="Channel:0:{c}" SamplesPerPixel="1"/>' for c in range(2))
for c in range(2):
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        f'UUID="urn:uuid:{ids[c]}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" '
        f'SizeX="60" SizeY="40" SizeC="2" SizeZ="1" SizeT="1">{channels}{planes}</Pixels></Image></OME>'
    )
    tifffile.imwrite(names[c], picture[c], description=xml, metadata=None)
for c in range(2):
    with open(names[c], "rb") as file:
        content = io.BytesIO(file.read())
    array = tifffile.imread(content)
    print(f"{names[c]} from memory: shape {array.shape}, largest of each channel {array.max(axis=(1, 2)).tolist()}")
    assert array.shape == picture.shape
    assert np.array_equal(array[c], picture[c]) and not array[1 - c].any()
    assert np.array_equal(tifffile.imread(names[c]), picture)
PY
