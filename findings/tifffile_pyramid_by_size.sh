#!/usr/bin/env bash
# tifffile takes a second picture of half the size for a smaller copy of the first.
#
# Versions: tifffile 2026.3.3, numpy 2.4.6.
# The guess that missed: pages that nobody marked as reduced (NewSubfileType, SubIFDs) are pictures of their own.
# Seen: two unrelated pages of 128 × 128 and 64 × 64 are *one* series with two levels; imread gives the first, and the
# second is no series that could be asked for. Of 128 × 128 and 60 × 60 they are two series.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet tifffile==2026.3.3 numpy==2.4.6
cd "$work" && venv/bin/python -W ignore - <<'PY'
import numpy as np
import tifffile

seen = {}
for side in (64, 60):
    with tifffile.TiffWriter("two.tif") as writer:
        for size in (128, side):
            picture = np.random.default_rng(size).integers(0, 256, (size, size), dtype=np.uint8)
            writer.write(picture, contiguous=False, metadata=None)
    with tifffile.TiffFile("two.tif") as file:
        assert [page.subfiletype for page in file.pages] == [0, 0]
        seen[side] = (len(file.pages), [[level.shape for level in series.levels] for series in file.series])
    print(f"pages of 128 and {side}: pages, levels of each series", seen[side])
assert seen == {64: (2, [[(128, 128), (64, 64)]]), 60: (2, [[(128, 128)], [(60, 60)]])}
PY
