"""Small versions of images, and digests of their bytes and pixels: one pass over a source."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from layergraft.data.arrays import Pixels
from layergraft.data.decode import BadImage
from layergraft.data.sources.source import Source
from layergraft.runs.interruption import check

SIDE = 40
_HASH = 8  # rows and columns of the transform that the perceptual hash keeps
_THREADS, _IMAGES = 2, 64  # images of one task
_DIGEST = 16
Directions = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """N images of a source, in its order.

    Args:
        files: digest of each image's file, of shape (N,); empty where there is none.
        pixels: digest of each image's pixels; empty where it cannot be read.
        small: the images at 40 x 40 pixels, uint8 of shape (N, 40, 40, 3).
    """

    files: list[bytes]
    pixels: list[bytes]
    small: Pixels

    def __len__(self) -> int:
        return len(self.pixels)


def in_colour(image: Pixels) -> Pixels:
    """An image of three channels: (height, width, C) -> (height, width, 3); of more than three the first ones."""
    return np.repeat(image[:, :, :1], 3, axis=2) if image.shape[2] < 3 else np.ascontiguousarray(image[:, :, :3])


def shrink(image: Pixels) -> Pixels:
    """An image at 40 x 40 pixels: (height, width, C) -> (40, 40, 3)."""
    image = in_colour(image)
    smaller = min(image.shape[:2]) > SIDE
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    return np.asarray(small, dtype=np.uint8).reshape(SIDE, SIDE, 3)


def read_pictures(source: Source, channels: int = 3) -> Pictures:
    """Read every image of a source once.

    Args:
        source: images.
        channels: of what is compared.
    """

    def read(start: int) -> list[tuple[bytes, bytes, Pixels]]:
        return [_read(source, key, channels) for key in source.keys[start : start + _IMAGES].tolist()]

    small = np.zeros((len(source), SIDE, SIDE, 3), dtype=np.uint8)
    files: list[bytes] = []
    pixels: list[bytes] = []
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="layergraft-pictures") as pool:
        for part in pool.map(read, range(0, len(source), _IMAGES)):
            check()
            for file, digest, picture in part:
                small[len(files)] = picture
                files.append(file)
                pixels.append(digest)
    return Pictures(files=files, pixels=pixels, small=small)


def _read(source: Source, key: int, channels: int) -> tuple[bytes, bytes, Pixels]:
    """(digest of the file, digest of the pixels, the small image)."""
    try:
        file = hashlib.blake2b(source.images.read(key), digest_size=_DIGEST).digest()
    except BadImage:
        file = b""
    try:
        image = source.images.load(key, channels)
    except BadImage:
        return file, b"", np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=_DIGEST)
    digest.update(np.ascontiguousarray(image).data)
    return file, digest.digest(), shrink(image)


def perceptual_hash(small: Pixels) -> tuple[Directions, Directions]:
    """What is left of images at low frequencies, of them and of their mirror images.

    It is the perceptual hash of Zauner 2010 (section 3.2.1) before its numbers are cut to their signs: the 8 x 8 lowest
    frequencies of the cosine transform of the grey image, without the mean.

    Args:
        small: of shape (N, 40, 40, 3).

    Returns:
        Two arrays of unit rows of shape (N, 63).
    """
    hashes = np.empty((len(small), _HASH, _HASH), dtype=np.float32)
    for index, picture in enumerate(small):
        hashes[index] = cv2.dct(picture.mean(axis=2, dtype=np.float32))[:_HASH, :_HASH]
    mirrored = hashes.copy()
    mirrored[:, :, 1::2] *= -1  # odd frequencies along a row change their sign
    plain, turned = (part.reshape(len(small), _HASH * _HASH)[:, 1:] for part in (hashes, mirrored))
    norms = np.maximum(np.linalg.norm(plain, axis=1, keepdims=True), 1e-6)
    return plain / norms, turned / norms
