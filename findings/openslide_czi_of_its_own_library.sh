#!/usr/bin/env bash
# OpenSlide, which reads Zeiss's CZI, cannot open a plain slide that Zeiss's own library for Python writes.
#
# Versions: openslide-python 1.4.7, openslide-bin 4.0.1.2 (OpenSlide 4.0.1), pylibCZIrw 6.1.0.
# The guess that missed: a CZI of one RGB plane by Zeiss's writer is the simplest that a reader of CZI meets.
# Seen: `detect_format` says zeiss, and opening fails with `Unrecognized subblock dimension "Z"`: the writer notes Z and T
# of every block although both have one place, and slide scanners leave them out. pylibCZIrw reads the same pixels back.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet openslide-python==1.4.7 openslide-bin==4.0.1.2 pylibczirw==6.1.0
cd "$work" && venv/bin/python - <<'PY'
import numpy as np
import openslide
from pylibCZIrw import czi

pixels = np.random.default_rng(0).integers(0, 256, (512, 1024, 3), dtype=np.uint8)
with czi.create_czi("a.czi", compression_options="uncompressed:") as file:
    for left in (0, 512):
        file.write(np.ascontiguousarray(pixels[:, left : left + 512]), location=(left, 0))
    file.write_metadata(document_name="a", scale_x=5e-7, scale_y=5e-7)
with czi.open_czi("a.czi") as file:
    print("pylibCZIrw:", file.total_bounding_box, np.array_equal(file.read(roi=(0, 0, 1024, 512)), pixels))
    assert np.array_equal(file.read(roi=(0, 0, 1024, 512)), pixels)
    assert file.total_bounding_box["Z"] == file.total_bounding_box["T"] == (0, 1)
print("OpenSlide", openslide.__library_version__, "detects", openslide.OpenSlide.detect_format("a.czi"))
assert openslide.OpenSlide.detect_format("a.czi") == "zeiss"
try:
    openslide.OpenSlide("a.czi")
    raise SystemExit("it was opened")
except openslide.OpenSlideError as error:
    print("and says:", error)
    assert "dimension" in str(error)
PY
