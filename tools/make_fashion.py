"""Build layergraft/data/fashion/images.npz from Debian's package `dataset-fashion-mnist` (MIT).

The file holds a stratified subset, 1,200 training and 500 test images of each class, in the order of the original
files, and for each image its place on the 36 x 36 canvas of `builtin:fashion-canvas`. Run once:

    apt-get install dataset-fashion-mnist && python tools/make_fashion.py
"""

from __future__ import annotations

import gzip
import io
import lzma
from pathlib import Path

import numpy as np

from layergraft.data.randomness import Randomness

SOURCE = Path("/usr/share/datasets/fashion-mnist")
TARGET = Path(__file__).parents[1] / "layergraft" / "data" / "fashion" / "fashion.npy.xz"
PER_CLASS = {"train": 1200, "test": 500}
CLASSES, SIDE, CANVAS = 10, 28, 36


def read_idx(path: Path, header: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes()), dtype=np.uint8, offset=header)


def main() -> None:
    content = io.BytesIO()
    for split, file in (("train", "train"), ("test", "t10k")):
        images = read_idx(SOURCE / f"{file}-images-idx3-ubyte.gz", 16).reshape(-1, SIDE, SIDE)
        labels = read_idx(SOURCE / f"{file}-labels-idx1-ubyte.gz", 8)
        random = Randomness(seed=0, scope=f"fashion-{split}")
        order = random.permutation("subset", np.arange(len(labels)), 0)
        chosen = np.sort(np.concatenate([order[labels[order] == c][: PER_CLASS[split]] for c in range(CLASSES)]))
        offset = random.words("canvas", np.arange(len(chosen)), 0, 2) % (CANVAS - SIDE + 1)
        for array in (images[chosen], labels[chosen], offset.astype(np.uint8)):
            np.save(content, array)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}]
    TARGET.write_bytes(lzma.compress(content.getvalue(), filters=filters))
    print(f"{TARGET}: {TARGET.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
