#!/usr/bin/env bash
# The same 12-bit picture has other numbers in Pillow when it comes from a TIFF than when it comes from a JPEG 2000 file.
#
# Versions: Pillow 12.3.0, tifffile 2026.3.3, imagecodecs 2026.3.6.
# The guess that missed: mode I;16 holds the file's own numbers, whatever the container.
# Seen: a TIFF of BitsPerSample 12 keeps 0…4095; a lossless JPEG 2000 file of bit depth 12 is multiplied by 16 (its
# numbers fill 16 bits), both in mode I;16 and without a word. A reader that divides by 65535 is right for one of them.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pillow==12.3.0 tifffile==2026.3.3 imagecodecs==2026.3.6 numpy==2.3.5
cd "$work" && venv/bin/python - <<'PY'
import imagecodecs, numpy as np
from PIL import Image

levels = np.random.default_rng(0).integers(0, 4096, (32, 32), dtype=np.uint16)
levels[0, 0] = 4095

# A TIFF of 12 bits a sample, big-endian within the bit stream as the standard has it: two samples in three bytes.
import struct
pairs = levels.reshape(-1, 2).astype(np.uint32)
packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1).astype(np.uint8).tobytes()
tags = [(256, 3, 32), (257, 3, 32), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 32), (279, 4, len(packed))]
directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHI", t, k, 1) + struct.pack("<I", v) for t, k, v in tags) + bytes(4)
open("twelve.tif", "wb").write(struct.pack("<2sHI", b"II", 42, 8 + len(packed)) + packed + directory)
open("twelve.jp2", "wb").write(imagecodecs.jpeg2k_encode(levels, bitspersample=12, codecformat="jp2", reversible=True, level=0))
print("imagecodecs reads back:", np.array_equal(imagecodecs.jpeg2k_decode(open("twelve.jp2", "rb").read()), levels))
seen = {}
for name in ("twelve.tif", "twelve.jp2"):
    with Image.open(name) as picture:
        values = np.asarray(picture).astype(np.int64)
        seen[name] = values
        print(f"{name}: mode {picture.mode}, largest {values.max()}, ratio to the truth {(values[levels > 0] / levels[levels > 0]).mean():.3f}")
assert np.array_equal(seen["twelve.tif"], levels)
assert np.array_equal(seen["twelve.jp2"], levels.astype(np.int64) * 16)
PY
