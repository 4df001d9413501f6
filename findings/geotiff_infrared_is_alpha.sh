#!/usr/bin/env bash
# A GeoTIFF of red, green, blue and near infrared says that its fourth band is transparency, even though its writer named it.
#
# Versions: rasterio 1.4.4 (GDAL 3.10.3), tifffile 2026.3.3, Pillow 12.3.0.
# The guess that missed: a band whose colour interpretation is set to infrared is no alpha channel in the file.
# Seen: GDAL's GTiff driver writes ExtraSamples = 2 (unassociated alpha) when four 8-bit bands are created with its
# defaults, and keeps it when colorinterp is set to NIR or undefined afterwards; the name stands only in GDAL's private
# XML (tag 42112), where rasterio itself finds it again. Readers that know TIFF alone blend the colours by the infrared: Pillow opens the file as RGBA.
# photometric="RGB" at creation gives ExtraSamples = 0.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet rasterio==1.4.4 tifffile==2026.3.3 pillow==12.3.0 numpy==2.3.5
cd "$work" && venv/bin/python - <<'PY'
import numpy as np, rasterio, tifffile
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

bands = np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8)
colours = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]

def write(name, fourth, **options):
    with rasterio.open(name, "w", driver="GTiff", width=32, height=32, count=4, dtype="uint8",
                       crs="EPSG:32632", transform=from_origin(500000, 5000000, 10, 10), **options) as file:
        file.write(bands)
        if fourth is not None:
            file.colorinterp = [*colours, fourth]
    with tifffile.TiffFile(name) as file:
        tags = file.pages[0].tags
        extra = tuple(int(x) for x in tags["ExtraSamples"].value) if "ExtraSamples" in tags else None
        named = tags[42112].value if 42112 in tags else ""
    with rasterio.open(name) as file:
        read = file.colorinterp[3].name
    with Image.open(name) as picture:
        mode = picture.mode
    print(f"{name:14} ExtraSamples {extra}, rasterio reads band 4 as {read}, Pillow as {mode}, tag 42112: {named[:120]!r}")
    return extra, mode

nir = getattr(ColorInterp, "nir", None) or ColorInterp.undefined
assert write("default.tif", None) == ((2,), "RGBA")
assert write("infrared.tif", nir) == ((2,), "RGBA")
assert write("photometric.tif", None, photometric="RGB")[0] == (0,)
PY
