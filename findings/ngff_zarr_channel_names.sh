#!/usr/bin/env bash
# Channel names that are given to ngff-zarr are in the image in memory, and nowhere in the OME-Zarr store that it writes.
#
# Versions: ngff-zarr 0.50.0.
# The guess that missed: `to_ngff_image(…, channel_names=["DAPI", "GFP"])` ends in the `omero` section, which is where
# OME-Zarr has names of channels.
# Seen: no `omero` section and neither name in the store, in versions 0.4 and 0.5, without a word. Names that are put
# into `multiscales.metadata.omero` by hand are written.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ngff-zarr==0.50.0
cd "$work" && venv/bin/python - <<'PY'
from pathlib import Path

import ngff_zarr as nz
import numpy as np
from ngff_zarr import Omero, OmeroChannel, OmeroWindow

NAMES = ["DAPI", "GFP"]
levels = np.random.default_rng(0).integers(0, 4096, (2, 64, 64), dtype=np.uint16)
image = nz.to_ngff_image(levels, dims=["c", "y", "x"], channel_names=NAMES)
print("in memory:", image.channel_names)
assert list(image.channel_names) == NAMES
for version, file in (("0.4", ".zattrs"), ("0.5", "zarr.json")):
    scales = nz.to_multiscales(image, scale_factors=[2])
    nz.to_ngff_zarr(f"{version}.zarr", scales, version=version)
    written = Path(f"{version}.zarr", file).read_text()
    print(f"{version}: omero {'omero' in written}, DAPI {'DAPI' in written}")
    assert "omero" not in written
    assert "DAPI" not in written
    window = OmeroWindow(min=0, max=4095, start=0, end=4095)
    scales.metadata.omero = Omero(channels=[OmeroChannel(color="0000FF", label=name, window=window) for name in NAMES])
    nz.to_ngff_zarr(f"{version}-by-hand.zarr", scales, version=version)
    assert "DAPI" in Path(f"{version}-by-hand.zarr", file).read_text()
PY
