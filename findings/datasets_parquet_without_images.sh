#!/usr/bin/env bash
# A Parquet file that Hugging Face datasets writes of images from files holds their local paths and no image.
#
# Versions: datasets 5.2.0, Pillow 12.3.0.
# The guess that missed: `Dataset.to_parquet` of an `Image` column writes images, as `push_to_hub` does with the same
# data set, so that the file can be taken to another machine.
# Seen: `bytes` is null and `path` is the absolute path on this machine, without a word; once the folder is gone the
# images are, too. Images that were given as arrays or bytes are in the file.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet datasets==5.2.0 pillow==12.3.0
cd "$work" && HF_HOME="$work/hf" venv/bin/python - <<'PY'
import os
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
from PIL import Image

file = Path("0.png").absolute()
Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(file)


def written(image, name):
    datasets.Dataset.from_dict({"image": [image]}).cast_column("image", datasets.Image()).to_parquet(name)
    return pq.read_table(name)["image"][0].as_py()


from_path = written(str(file), "paths.parquet")
print("from a path:", from_path)
assert from_path == {"bytes": None, "path": str(file)}
file.unlink()
try:
    datasets.load_dataset("parquet", data_files="paths.parquet", split="train")[0]["image"]
    raise SystemExit("the image was read")
except FileNotFoundError as error:
    print("once the file is gone:", error)
row = written(Image.fromarray(np.full((8, 8, 3), 7, np.uint8)), "pixels.parquet")
print("from pixels:", len(row["bytes"]), "bytes, path", row["path"])
assert row["bytes"]
sys.stdout.flush()
os._exit(0)  # threads of the libraries may hold the process at its end
PY
