"""A look at a few images of a source, to say what is assumed of them and where an encoder would see much less."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from layergraft.config.encoder import ImageSize, height_and_width
from layergraft.data.arrays import Labels, Pixels
from layergraft.data.decode.picture import BadImage, Picture, Request
from layergraft.data.decode.ranges import is_plain, needs_range
from layergraft.data.randomness import Randomness
from layergraft.data.sources.blocks import BlockImages
from layergraft.data.sources.files import FileImages
from layergraft.data.sources.source import EncodedImages, Source
from layergraft.runs.interruption import check

LOOKED_AT, FAR = 16, 4
FEWER_PIXELS = 4  # so many times shorter than the image is the encoder's side where it is worth a word
SIDES = (96, 224)  # what is proposed to smaller encoders
DARK = 2**14  # 16-bit images whose largest number is below this are nearly black as they are
_DEEP = 16
_WHITE = 2**_DEEP - 1
_SPREAD, _SHARE = 24, 0.01  # of grey levels between channels, and of pixels: less is the noise of a JPEG


@dataclass(frozen=True, kw_only=True)
class FirstLook:
    """What a few images are like.

    Args:
        images: how many could be looked at.
        coloured: how many of them hold colour.
        side: median of their shorter sides in pixels.
        deep: how many have whole numbers of 16 bits, none of which the file says to be less significant.
        largest: the largest number of those, as the file has it.
        turned: how many of those have 0 for white in the file, and were turned over.
        plain: how many have 8 bits.
        remarks: what was assumed of files, and of how many.
    """

    images: int
    coloured: int
    side: int
    deep: int = 0
    largest: int = 0
    turned: int = 0
    plain: int = 0
    remarks: tuple[tuple[str, int], ...] = ()


@dataclass(kw_only=True)
class _Tally:
    sides: list[int] = field(default_factory=list)
    coloured: int = 0
    deep: int = 0
    largest: int = 0
    turned: int = 0
    plain: int = 0
    remarks: Counter[str] = field(default_factory=Counter)


def _count_levels(tally: _Tally, levels: Pixels, side: int) -> None:
    tally.sides.append(side)
    tally.coloured += bool((np.ptp(levels, axis=2) > _SPREAD).mean() > _SHARE)


def _count_picture(tally: _Tally, picture: Picture, side: int) -> None:
    """Take note of a file as it is stored."""
    array = picture.array
    tally.remarks.update(picture.remarks)
    if is_plain(picture):
        tally.plain += 1
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2 and picture.depth() == _DEEP and picture.range is None:
        tally.deep += 1
        # Numbers that were turned over lie near their end where those of the file lie near 0.
        tally.turned += picture.turned
        tally.largest = max(tally.largest, _WHITE - int(array.min()) if picture.turned else int(array.max()))
    levels = array[:, :, :3] if picture.colours == 3 else np.zeros((1, 1, 3), dtype=np.uint8)
    if levels.dtype != np.uint8 and not needs_range(picture):
        levels = levels.astype(np.float64) * (255 / max(1, levels.max()))
    _count_levels(tally, np.asarray(levels, dtype=np.uint8), side)


def _sampled(source: Source) -> Labels:
    """Keys of some images spread over a source; of a few where each is a request, of one block where a block is."""
    files = source.images
    if isinstance(files, BlockImages):
        blocks = np.searchsorted(files.starts, source.keys, side="right")
        keys = source.keys[blocks == blocks[0]][:LOOKED_AT] if len(source) else source.keys
        files.announce(keys)
        return keys
    far = isinstance(files, FileImages) and files.root.remote
    order = Randomness(seed=0, scope="first look").permutation("sample", source.keys, 0, first=LOOKED_AT)
    return source.keys[order][: FAR if far else LOOKED_AT]


def look_at(source: Source, channels: int = 3) -> FirstLook:
    """Look at up to 16 images spread over a source; of one that lies far away at 4, or at the first of a block.

    Args:
        source: images.
        channels: of the encoder, which say whether a series of pages is a picture of as many channels.
    """
    files = source.images
    tally = _Tally()
    for key in _sampled(source).tolist():
        check()
        whole: list[tuple[int, int]] = []

        def smallest(height: int, width: int, whole: list[tuple[int, int]] = whole) -> int:
            whole.append((height, width))
            return 8

        try:
            if not isinstance(files, EncodedImages):
                pixels = files.load(key, 3)
                _count_levels(tally, pixels, min(pixels.shape[:2]))
                continue
            request = Request(channels=channels, options=source.options, whole=True, reduction=smallest)
            picture = files.picture(key, request)
            _count_picture(tally, picture, min(whole[-1] if whole else picture.array.shape[:2]))
        except BadImage:
            continue
    return FirstLook(
        images=len(tally.sides),
        coloured=tally.coloured,
        side=int(np.median(tally.sides)) if tally.sides else 0,
        deep=tally.deep,
        largest=tally.largest,
        turned=tally.turned,
        plain=tally.plain,
        remarks=tuple(tally.remarks.most_common()),
    )


def remarks_on_files(look: FirstLook, source: Source) -> list[str]:
    """What was assumed of the files, a line each, with what to append to the SOURCE to choose otherwise."""
    said = [f"{source.spec}: {count} of {look.images} images looked at: {text}." for text, count in look.remarks]
    if source.options.range is None and look.deep and 0 < look.largest < DARK:
        top = max(255, 2 ** look.largest.bit_length() - 1)
        turned = look.turned == look.deep  # then the numbers that count are 65535 less those of the file
        limits = f"{_WHITE - top},{_WHITE}" if turned else f"0,{top}"
        ways = "?range=auto" if 0 < look.turned < look.deep else f"?range={limits} or ?range=auto"
        said.append(
            f"{source.spec}: the largest number of {look.deep} images of 16 bits looked at is {look.largest}, of "
            f"{_WHITE} that count as {'black' if turned else 'white'}: they are nearly {'white' if turned else 'black'}"
            f". Append {ways} to the SOURCE."
        )
    if source.options.range is not None and look.images and look.plain == look.images:
        said.append(f"{source.spec}: all {look.plain} images looked at have 8 bits, which ?range= leaves as they are.")
    return said


def remark(look: FirstLook, in_chans: int, img_size: ImageSize, patch_size: int, start: str | None) -> str | None:
    """One line where the encoder's channels or size suit the images badly, with the keys to set; else None.

    Args:
        look: what the images are like.
        in_chans: channels of the encoder's input.
        img_size: of its input, in pixels; nothing is said about one that is not square.
        patch_size: side of a patch.
        start: the ENC that the run starts from, if any: its weights may need the three channels of grey images.
    """
    said, keys = [], []
    if in_chans == 1 and 2 * look.coloured >= max(1, look.images):
        said.append(f"{look.coloured} of {look.images} images looked at hold colour, which encoder.in_chans 1 drops")
        keys.append("--encoder.in_chans 3")
    elif in_chans == 3 and look.images and not look.coloured and start is None:
        said.append(f"all {look.images} images looked at are grey, and encoder.in_chans is 3")
        keys.append("--encoder.in_chans 1")
    height, width = height_and_width(img_size)
    larger = next((side for side in SIDES if side > height), None)
    if height == width and larger is not None and look.side >= FEWER_PIXELS * height:
        fitting = min(larger, look.side) // patch_size * patch_size
        said.append(f"their shorter side is {look.side} pixels (median), and encoder.img_size is {img_size}")
        keys.append(f"--encoder.img_size {fitting}")
    if not said:
        return None
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}. To change it: {' '.join(keys)}"
