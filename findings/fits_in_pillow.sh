#!/usr/bin/env bash
# Pillow opens a 16-bit FITS image without an error and gives numbers that have nothing to do with it.
#
# Versions: Pillow 12.3.0, astropy 8.0.2.
# The guess that missed: a plugin that identifies FITS and returns an image of mode I;16 has read its values.
# Seen: FITS stores unsigned 16-bit integers as big-endian signed ones with BZERO = 32768. Pillow neither swaps the
# bytes nor adds BZERO, so neighbouring grey levels become far apart: the correlation with the truth is near 0. 8-bit
# FITS files are read rightly (upside down: FITS counts rows from the bottom).
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pillow==12.3.0 astropy==8.0.2
cd "$work" && venv/bin/python - <<'PY'
import numpy as np
from astropy.io import fits
from PIL import Image

rows, columns = np.mgrid[:64, :64]
truth = (1000 + 300 * np.sin(rows / 9) * np.cos(columns / 7) * 2).astype(np.uint16)
fits.PrimaryHDU(truth).writeto("deep.fits")
print("header:", {key: fits.getheader("deep.fits")[key] for key in ("BITPIX", "BZERO", "BSCALE")})
assert np.array_equal(fits.getdata("deep.fits"), truth)
with Image.open("deep.fits") as picture:
    seen = np.asarray(picture).astype(np.float64)
    mode = picture.mode
best = max(abs(np.corrcoef(view.ravel(), truth.ravel())[0, 1]) for view in (seen, seen[::-1]))
print(f"Pillow: mode {mode}, {seen.min():.0f} to {seen.max():.0f} for {truth.min()} to {truth.max()}, |correlation| {best:.3f}")
assert best < 0.3
shallow = (truth // 8).astype(np.uint8)
fits.PrimaryHDU(shallow).writeto("shallow.fits")
with Image.open("shallow.fits") as picture:
    eight = np.asarray(picture)
print("8 bits: right way up", np.array_equal(eight, shallow), "or upside down", np.array_equal(eight[::-1], shallow))
assert np.array_equal(eight, shallow) or np.array_equal(eight[::-1], shallow)
PY
