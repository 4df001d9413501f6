"""What a source is like: kinds of files, sizes, channels, numbers before and after their range, what is unreadable."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from layergraft.data.arrays import Indices, Pixels
from layergraft.data.decode.picture import BadImage, Picture, Request, numbers_of, spread_numbers
from layergraft.data.randomness import Randomness
from layergraft.data.sources.source import EncodedImages, Source, file_of
from layergraft.runs.interruption import check
from layergraft.runs.readable import counted

VALUES = 4096  # numbers of each channel of one image
BINS = 64
MOST_CHANNELS = 8  # of which numbers are shown


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The numbers of one channel over the images looked at.

    Args:
        name: of the channel.
        low: the smallest.
        high: the largest.
        edges: of the bins, of shape (BINS + 1,).
        counts: numbers in each bin, of shape (BINS,).
    """

    name: str
    low: float
    high: float
    edges: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was seen.

    Args:
        endings: ending of the name -> images, of all.
        keys: of the images looked at that can be read.
        layouts: type of the numbers and meaning of the channels -> images.
        sizes: height and width of each readable image, of shape (N, 2).
        stored: numbers as stored, by channel; empty for sources that hold grey levels.
        levels: what an encoder is given, 0 to 255, by channel.
        reasons: why an image cannot be read -> images.
        remarks: what was assumed -> images.
    """

    endings: Counter[str]
    keys: Indices
    layouts: Counter[str]
    sizes: npt.NDArray[np.int64]
    stored: list[Numbers]
    levels: list[Numbers]
    reasons: Counter[str]
    remarks: Counter[str]


@dataclass(kw_only=True)
class _Tally:
    keys: list[int] = field(default_factory=list)
    layouts: Counter[str] = field(default_factory=Counter)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    stored: list[npt.NDArray[Any]] = field(default_factory=list)
    names: list[tuple[str, ...]] = field(default_factory=list)
    levels: list[npt.NDArray[Any]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)


def _layout(picture: Picture) -> str:
    count = picture.array.shape[2]
    colours = {1: "grey", 3: "RGB"}.get(picture.colours, "")
    alpha = " and alpha" if picture.alpha is not None else ""
    kind = f"{colours}{alpha}" if colours else f"{count} band" + "s" * (count != 1)
    bits = f", {picture.bits} bits" if picture.bits and picture.bits != 8 * picture.array.dtype.itemsize else ""
    return f"{picture.array.dtype}{bits}, {kind}"


def _by_channel(samples: list[npt.NDArray[Any]], names: list[tuple[str, ...]]) -> list[Numbers]:
    """Numbers of the images with the most frequent number of channels, by channel."""
    if not samples:
        return []
    count, _ = Counter(sample.shape[1] for sample in samples).most_common(1)[0]
    kept = [sample for sample in samples if sample.shape[1] == count]
    called = next((name for name in names if len(name) == count), tuple(str(c + 1) for c in range(count)))
    numbers = []
    for channel in range(min(count, MOST_CHANNELS)):
        values = np.concatenate([sample[:, channel].astype(np.float64) for sample in kept])
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        counts, edges = np.histogram(values, BINS, (low, high if high > low else low + 1))
        numbers.append(Numbers(name=called[channel], low=low, high=high, edges=edges, counts=counts))
    return numbers


def _look(source: Source, key: int, channels: int, tally: _Tally) -> None:
    images = source.images
    stored: Picture | None = None
    if isinstance(images, EncodedImages):
        request = Request(channels=channels, options=source.options, whole=True)
        stored = images.picture(key, request)
        tally.remarks.update(stored.remarks)
        tally.layouts[_layout(stored)] += 1
        tally.stored.append(numbers_of(stored, VALUES))
        tally.names.append(stored.names or ())
    levels: Pixels = images.load(key, channels)
    if stored is None:
        tally.layouts[f"uint8, {counted(levels.shape[2], 'channel')} of an array"] += 1
    tally.levels.append(spread_numbers(levels, VALUES))
    tally.sizes.append((stored.array if stored else levels).shape[:2])
    tally.keys.append(key)


def channels_of(source: Source, sample: int = 16) -> int:
    """Channels that an encoder of these images needs: 3 where some hold RGB, 1 where all are grey, else the bands."""
    if source.options.channels is not None:
        return len(source.options.channels)
    images = source.images
    bands = Counter[int]()
    for key in _sampled(source, sample).tolist():
        try:
            if isinstance(images, EncodedImages):
                picture = images.picture(key, Request(channels=3, options=source.options, whole=True))
                bands[picture.colours or picture.array.shape[2]] += 1
        except BadImage:
            continue
    if not bands:
        return 3
    return 3 if bands[3] else bands.most_common(1)[0][0]


def _sampled(source: Source, count: int) -> Indices:
    """Keys of some images spread over a source, in its order."""
    order = Randomness(seed=0, scope="first look").permutation("sample", source.keys, 0, first=count)
    return np.sort(source.keys[order])


def survey(source: Source, channels: int, count: int) -> Survey:
    """Look at some images of a source as stored, and as an encoder is given them.

    Args:
        source: its options are numbers already (see `data.reading.settle`).
        channels: of the encoder's input.
        count: how many images to look at; names are counted of all.
    """
    endings = Counter(
        os.path.splitext(file_of(source.images.name(int(key))))[1].lower() or "none" for key in source.keys
    )
    tally = _Tally()
    for key in _sampled(source, count).tolist():
        check()
        try:
            _look(source, key, channels, tally)
        except BadImage as error:
            tally.reasons[str(error)] += 1
    return Survey(
        endings=endings,
        keys=np.array(tally.keys, dtype=np.int64),
        layouts=tally.layouts,
        sizes=np.array(tally.sizes, dtype=np.int64).reshape(-1, 2),
        stored=_by_channel(tally.stored, tally.names),
        levels=_by_channel(tally.levels, []),
        reasons=tally.reasons,
        remarks=tally.remarks,
    )
