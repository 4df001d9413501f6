"""Near-duplicates: one picture encoded again, at another size, mirrored, or with its edges cut off.

Candidates are the nearest by features and by perceptual hash; pixels decide. How alike pixels must be is measured on
the images themselves: as alike as they stay when they are encoded again, made smaller, or mirrored and cropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import cv2
import numpy as np
import numpy.typing as npt
import torch

from layergraft.data.arrays import Pixels
from layergraft.data.decode import BadImage
from layergraft.data.randomness import Randomness
from layergraft.data.sources.source import Source
from layergraft.evaluation.auditing.pictures import SIDE, Directions, in_colour, perceptual_hash, shrink
from layergraft.runs.interruption import check

Pairs = npt.NDArray[np.int64]
"""Rows of two images, of shape (P, 2)."""
NEIGHBOURS = 5  # candidates of each image by each measure
COPIES = 200  # images that the threshold is measured on
MISSED = 0.01  # share of their copies that it may miss
QUALITY, SCALE, CROP = 70, 0.8, 0.05
_COMPARED = 24  # side at which pixels are compared
_BLUR = 0.8
# Windows of an image that another one may show: its side as a share, and where it begins.
_WINDOWS = [(1.0, 0.0, 0.0), *((side, 0.5, 0.5) for side in (0.975, 0.925, 0.875))]
_WINDOWS += [(side, y, x) for side in (0.95, 0.9) for y in (0, 0.5, 1) for x in (0, 0.5, 1)]
_NUMBERS, _ROWS = 2**25, 512  # similarities that are held at once, of how many queries: few stay in the cache


def windows(small: Pixels) -> Directions:
    """Windows of an image and their mirror images as unit rows; the first is the whole image.

    Args:
        small: of shape (40, 40, 3).

    Returns:
        Of shape (W, D); an image of a single colour has rows of zeros.
    """
    soft = cv2.GaussianBlur(small.astype(np.float32), (0, 0), _BLUR)
    views = []
    for side, y, x in _WINDOWS:
        view = _window(soft, side, y, x)
        views += [view, view[:, ::-1]]
    rows = np.stack(views).reshape(len(views), -1)
    rows -= rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(norms > 1e-3 * rows.shape[1] ** 0.5, rows / np.maximum(norms, 1e-6), 0).astype(np.float32)


def _window(image: npt.NDArray[np.float32], side: float, y: float, x: float) -> npt.NDArray[np.float32]:
    """A window of a small image, `side` of it wide, at shares y and x of the room there is, at 24 x 24 pixels."""
    step, spare = side * SIDE / _COMPARED, SIDE * (1 - side)
    shift = (step - 1) / 2  # pixels are areas
    to_image = np.array([[step, 0, x * spare + shift], [0, step, y * spare + shift]], dtype=np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    window = cv2.warpAffine(image, to_image, (_COMPARED, _COMPARED), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(window, dtype=np.float32)


def likeness(one: Directions, other: Directions) -> float:
    """The largest correlation of a window of one image with the whole of the other: 1 for the same picture."""
    return float(max((one @ other[0]).max(), (other @ one[0]).max()))


def pair_likeness(first: Pixels, second: Pixels, pairs: Pairs) -> npt.NDArray[np.float32]:
    """`likeness` of pairs, of shape (P,).

    Args:
        first: small images that the first column of `pairs` names, of shape (N, 40, 40, 3).
        second: likewise the second column.
        pairs: of shape (P, 2).
    """
    best = np.zeros(len(pairs), dtype=np.float32)
    for column, (shown, whole) in enumerate(((first, second), (second, first))):
        order = np.argsort(pairs[:, column], kind="stable")
        ends = np.flatnonzero(np.diff(pairs[order, column])) + 1
        for group in np.split(order, ends) if len(order) else ():
            check()
            views = windows(shown[pairs[group[0], column]])
            others = np.stack([_whole(whole[row]) for row in pairs[group, 1 - column]])
            best[group] = np.maximum(best[group], (views @ others.T).max(axis=0))
    return best


def _whole(small: Pixels) -> Directions:
    """The first row of `windows` alone."""
    row = _window(cv2.GaussianBlur(small.astype(np.float32), (0, 0), _BLUR), *_WINDOWS[0]).reshape(-1)
    row -= row.mean()
    norm = float(np.linalg.norm(row))
    return np.asarray(row / norm if norm > 1e-3 * len(row) ** 0.5 else np.zeros_like(row), dtype=np.float32)


def copies(image: Pixels) -> list[Pixels]:
    """An image encoded again at quality 70, resized by 0.8, and mirrored with 5 % of each edge cut off."""
    encoded = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1], cv2.IMREAD_COLOR)
    resized = cv2.resize(image, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_AREA)
    height, width = image.shape[:2]
    y, x = round(CROP * height), round(CROP * width)
    mirrored = np.ascontiguousarray(image[y : height - y, x : width - x][:, ::-1])
    return [np.asarray(copy, dtype=np.uint8) for copy in (encoded, resized, mirrored)]


def likeness_threshold(source: Source, images: int = COPIES, channels: int = 3) -> float:
    """The likeness that 99 % of copies of a source's images have with their originals; at most 1.

    Small images lose more by being made smaller still, and would loosen the threshold for all: it is measured on those
    that are not smaller than the middle one.

    Args:
        source: images, of which up to `images` are drawn at random.
        images: how many.
        channels: of what is compared.
    """
    order = Randomness(seed=0, scope="audit").permutation("copies", source.keys, 0, first=images)
    drawn = []
    for key in source.keys[order].tolist():
        check()
        with suppress(BadImage):
            drawn.append(in_colour(source.images.load(key, channels)))
    sides = [min(image.shape[:2]) for image in drawn]
    middle = max(4, sorted(sides)[len(sides) // 2]) if sides else 0
    likenesses = []
    for image in (image for image, side in zip(drawn, sides, strict=True) if side >= middle):
        check()
        views = windows(shrink(image))
        if views[0].any():
            likenesses += [likeness(views, windows(shrink(copy))) for copy in copies(image)]
    return float(np.quantile(likenesses, MISSED)) if likenesses else 1.0


def candidates(first: Sequence[Directions], second: Sequence[Directions], within: bool) -> Pairs:
    """The nearest of each image by several measures.

    Args:
        first: unit rows of the images that are looked up, of shape (N, D), one array for each measure.
        second: unit rows of those they are looked up in, of shape (M, D).
        within: both are the same images; each pair is given once, the smaller row first.

    Returns:
        Of shape (P, 2), each pair once.
    """
    found = []
    for queries, bank in zip(first, second, strict=True):
        for start, nearest, _ in nearest_rows(queries, bank, NEIGHBOURS, within):
            rows = np.arange(start, start + len(nearest))
            found.append(np.stack([np.repeat(rows, nearest.shape[1]), nearest.reshape(-1)], axis=1))
    if not found:
        return np.empty((0, 2), dtype=np.int64)
    pairs = np.concatenate(found)
    if within:
        pairs = np.sort(pairs, axis=1)
    return np.unique(pairs, axis=0)


def nearest_rows(
    queries: Directions, bank: Directions, count: int, within: bool
) -> list[tuple[int, Pairs, npt.NDArray[np.float32]]]:
    """The nearest rows of a bank for each query, by cosine similarity, in blocks: no (N, M) matrix is ever there.

    Args:
        queries: unit rows of shape (N, D).
        bank: unit rows of shape (M, D).
        count: how many; fewer where the bank is smaller.
        within: both are the same, and a row is not its own neighbour.

    Returns:
        (first query of the block, rows of the bank of shape (block, count), their similarities) of each block.
    """
    wanted = min(count, len(bank) - within)
    if wanted < 1 or not len(queries):
        return []
    x, y = torch.from_numpy(queries), torch.from_numpy(bank)
    rows = max(1, min(_ROWS, _NUMBERS // len(bank)))
    found = []
    for start in range(0, len(queries), rows):
        check()
        similarity = x[start : start + rows] @ y.T
        if within:
            itself = torch.arange(len(similarity))
            similarity[itself, itself + start] = -2
        values, indices = similarity.max(1, keepdim=True) if wanted == 1 else similarity.topk(wanted)
        found.append((start, indices.numpy(), values.numpy()))
    return found


def near_pairs(
    first: tuple[Directions, Pixels], second: tuple[Directions, Pixels] | None, threshold: float
) -> tuple[Pairs, npt.NDArray[np.float32]]:
    """Pairs of images that show one picture.

    Args:
        first: (features as unit rows of shape (N, D), small images of shape (N, 40, 40, 3)).
        second: likewise of the images that they are looked up in; None looks within `first`.
        threshold: of `likeness`.

    Returns:
        (pairs of shape (P, 2), their likeness of shape (P,)), the likest first.
    """
    other = first if second is None else second
    (plain, mirrored), (bank, _) = perceptual_hash(first[1]), perceptual_hash(other[1])
    pairs = candidates([first[0], plain, mirrored], [other[0], bank, bank], second is None)
    if second is None:
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]  # an image that is its own mirror image
    alike = pair_likeness(first[1], other[1], pairs)
    kept = np.flatnonzero(alike >= threshold)
    kept = kept[np.argsort(-alike[kept], kind="stable")]
    return pairs[kept], alike[kept]
