"""How the images of a source are read for an encoder: by the SOURCE's own options, else by those it was trained with.

Here a range `auto` becomes numbers, and it is said what was chosen and where an encoder knows other values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt

from layergraft.data.decode.colours import has_spare_band, select
from layergraft.data.decode.options import Range, ReadOptions, with_options
from layergraft.data.decode.picture import BadImage, Picture, Request, numbers_of
from layergraft.data.decode.ranges import is_plain
from layergraft.data.randomness import Randomness
from layergraft.data.sources.source import AS_THEY_ARE, EncodedImages, Source
from layergraft.errors import UserError
from layergraft.runs.interruption import check
from layergraft.runs.readable import counted

SAMPLED, VALUES = 256, 4096  # images of `?range=auto`, and numbers of each channel of one
PERCENTILES = (0.1, 99.9)
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """Numbers of some images.

    Args:
        values: of each image that is deeper than 8 bits, of shape (channels, numbers).
        all_colour: whether all images are grey or RGB, whose channels share a range.
        plain: how many images have 8 bits.
        reasons: why others cannot be read.
    """

    values: list[npt.NDArray[Any]]
    all_colour: bool
    plain: int
    reasons: Counter[str]


def _sample(source: Source, images: EncodedImages, channels: int) -> _Sample:
    order = Randomness(seed=0, scope="value range").permutation("sample", source.keys, 0, first=SAMPLED)
    values, all_colour, plain, reasons = [], True, 0, Counter[str]()
    # What will be read is sampled, not all that a file holds; by any range, as files are read at full depth with one.
    request = Request(channels=channels, options=replace(source.options, range=((0.0, 1.0),)))
    for key in source.keys[order].tolist():
        check()
        try:
            picture = images.picture(key, request)
            if request.options.channels is not None:
                picture = select(picture, request.options.channels)
        except BadImage as error:
            reasons[str(error)] += 1
            continue
        if is_plain(picture):
            plain += 1
            continue
        values.append(_numbers(picture, channels))
        all_colour &= picture.colours > 0
    return _Sample(values=values, all_colour=all_colour, plain=plain, reasons=reasons)


def _numbers(picture: Picture, channels: int) -> npt.NDArray[Any]:
    """Some numbers of each channel that an encoder gets, but alpha, of shape (channels, numbers)."""
    count = 3 if has_spare_band(picture, channels) else picture.array.shape[2]
    opaque = [channel for channel in range(count) if channel != picture.alpha]
    return numbers_of(picture, VALUES)[:, opaque].T


def _limits(numbers: npt.NDArray[Any]) -> tuple[float, float]:
    finite = numbers[np.isfinite(numbers)]
    if not len(finite):
        return 0.0, 1.0
    low, high = np.percentile(finite, PERCENTILES)
    if numbers.dtype.kind in "iu":
        low, high = np.floor(low), np.ceil(high)
    low, high = (float(f"{number:.6g}") for number in (low, high))
    return (low, high) if low < high else (low, low + 1)


def find_range(source: Source, channels: int, say: Say) -> Range | None:
    """Find the percentiles 0.1 and 99.9 of a fixed sample of a source's images.

    Args:
        source: its options say which channels, pages and slices count.
        channels: of the encoder.
        say: called with what was found.

    Returns:
        One range, or one for each channel where those are no colours; None where all images have 8 bits.

    Raises:
        UserError: none of the images can be read.
    """
    if not isinstance(source.images, EncodedImages):
        say(f"{source.spec}: the images are arrays of 8 bits: range=auto changes nothing.")
        return None
    sample = _sample(source, source.images, channels)
    looked_at = sample.plain + len(sample.values)
    if not looked_at:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sample.reasons.most_common())
        raise UserError(f"None of the images of {source.spec!r} that were looked at can be read: {reasons}.")
    if not sample.values:
        say(f"{source.spec}: all {looked_at} images looked at have 8 bits: range=auto changes nothing.")
        return None
    count, _ = Counter(len(values) for values in sample.values).most_common(1)[0]
    kept = [values for values in sample.values if len(values) == count]
    if sample.all_colour or count != channels:
        found: Range = (_limits(np.concatenate([values.reshape(-1) for values in kept])),)
    else:
        found = tuple(_limits(np.concatenate([values[c] for values in kept])) for c in range(count))
    text = ReadOptions(range=found).words()["range"]
    each = " for each channel" if len(found) > 1 else ""
    say(f"{source.spec}: range={text}, percentiles 0.1 and 99.9 of {counted(len(kept), 'image')}{each}.")
    return found


def settle(
    source: Source,
    channels: int,
    say: Say,
    known: ReadOptions = AS_THEY_ARE,
    whose: str = "",
    *,
    is_training: bool = False,
) -> Source:
    """A source whose reading options are numbers, and fit the encoder.

    Args:
        source: as it was opened.
        channels: of the encoder.
        say: called with what was found, inherited, or differs.
        known: what an encoder was trained with; it counts where the source says nothing.
        whose: that encoder, for what is said.
        is_training: whether the source's own mean and deviation count; a trained encoder has those it was trained with.

    Returns:
        The same images; `spec` names the options, so that it opens them again in the same way.

    Raises:
        UserError: there are other numbers of channels or ranges than channels of the encoder.
    """
    for sentence in differences(source, known, whose):
        say(sentence)
    if whose and not is_training and {"mean", "std"} & dict(parse_qsl(source.spec.partition("?")[2])).keys():
        say(f"{source.spec}: ?mean= and ?std= count in training alone; {whose} normalises images as it was trained.")
    options = source.options.or_else(known)
    if options.channels is not None and len(options.channels) != channels:
        raise UserError(
            f"{source.spec!r} names {counted(len(options.channels), 'channel')}, and {channels} are wanted.",
            "Name as many behind ?channels=, or set --encoder.in_chans.",
        )
    if options.range == "auto":
        found = find_range(source.read_by(options), channels, say)
        options = replace(options, range=found)
    ranges = len(options.fixed_range or ())
    if options.range is not None and ranges not in (1, channels):
        raise UserError(
            f"{source.spec!r} has {counted(ranges, 'range')}, and {channels} channels are wanted.",
            "Give one range for all channels, or one for each: ?range=0,4095;0,900.",
        )
    if options == source.options:
        return source
    return replace(source.read_by(options), spec=with_options(source.spec, options))


def read_alike(test: Source, source: Source) -> Source:
    """Test images, read as training images are wherever they say nothing of it.

    Args:
        test: as it was opened.
        source: training images, settled.

    Raises:
        UserError: a range of their own was to be found, in which the same number would be another level.
    """
    if test.options.range == "auto":
        raise UserError(
            f"{test.spec!r} are test images with range=auto.",
            "Leave it out: they are read with the range of the training images; or give LOW,HIGH.",
        )
    return read_as_trained(test, source.options)


def shown_channels(source: Source, channels: int) -> int:
    """Channels to look at images with: colours also where an encoder sees grey, unless the SOURCE chooses channels.

    Args:
        source: settled.
        channels: of the encoder.
    """
    return 3 if channels == 1 and source.options.channels is None else channels


def differences(source: Source, known: ReadOptions, whose: str) -> list[str]:
    """What is to be said where an encoder was trained with other options than a source has, or has none of."""
    chosen, trained = source.options.words(), known.words()
    said = [
        f"{source.spec} is read with {name}={chosen[name]}, but {whose} was trained with {name}={trained[name]}."
        for name in trained
        if chosen.get(name, trained[name]) != trained[name]
    ]
    inherited = {name: value for name, value in trained.items() if name not in chosen}
    if inherited:
        words = "&".join(f"{name}={value}" for name, value in inherited.items())
        said.append(f"{source.spec} is read as {whose} was trained: {words}.")
    return said


def read_as_trained(source: Source, known: ReadOptions) -> Source:
    """The same source, read by an encoder's options where it has none of its own."""
    return source.read_by(source.options.or_else(known))
