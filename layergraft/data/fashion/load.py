"""The built-in images: a subset of Fashion-MNIST (Zalando SE, MIT licence; made by tools/make_fashion.py)."""

from __future__ import annotations

import hashlib
import io
import lzma
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from layergraft.data.arrays import Pixels
from layergraft.data.decode import Reduction, match_channels
from layergraft.data.sources.file_state import Stamp

FILE = Path(__file__).with_name("fashion.npy.xz")
CLASSES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
CANVAS = 36
SCENES, COLOUR = "fashion-scenes", "fashion-colour"
# Mean and standard deviation of the training pixels, in [0, 1].
STATISTICS = {"fashion": ((0.286,), (0.353,)), "fashion-canvas": ((0.173,), (0.307,))}


class ArrayImages:
    """Images in memory, grey of shape (N, height, width) or RGB of shape (N, height, width, 3)."""

    def __init__(self, pixels: npt.NDArray[np.uint8]) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, index: int) -> str:
        return f"image {index}"

    def stamp(self, keys: npt.NDArray[np.int64]) -> Stamp:
        content = hashlib.blake2b(repr(self.pixels.shape[1:]).encode(), digest_size=16)
        content.update(self.pixels[keys].tobytes())
        return Stamp(text=content.hexdigest(), certain=True, is_content=True)

    def load(self, index: int, channels: int, reduction: Reduction | None = None) -> Pixels:
        pixels = self.pixels[index]
        return match_channels(pixels.reshape(*pixels.shape[:2], -1), channels)

    def read(self, index: int) -> bytes:
        """The image as a PNG file."""
        pixels = self.pixels[index]
        return bytes(cv2.imencode(".png", pixels[:, :, ::-1] if pixels.ndim == 3 else pixels)[1])


@cache
def _arrays() -> dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
    content = io.BytesIO(lzma.decompress(FILE.read_bytes()))
    return {split: (np.load(content), np.load(content), np.load(content)) for split in ("train", "test")}


@cache
def canvases(split: str) -> npt.NDArray[np.uint8]:
    """The images of a split on their canvas, of shape (N, 36, 36)."""
    images, _, place = _arrays()[split]
    side = images.shape[1]
    canvas = np.zeros((len(images), CANVAS, CANVAS), dtype=np.uint8)
    for image, (row, column), target in zip(images, place, canvas, strict=True):
        target[row : row + side, column : column + side] = image
    return canvas


def embedded(split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """(images of shape (N, 28, 28), their classes) of `train` or `test`."""
    images, labels, _ = _arrays()[split]
    return images, labels
