"""Features of every image of a source, in its order: one pass for all poolings that are asked for."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from layergraft.config.encoder import ImageSize, height_and_width
from layergraft.data.augment import fixed_view
from layergraft.data.batch import Normalize
from layergraft.data.decode import BadImage
from layergraft.data.randomness import Randomness
from layergraft.data.reading import read_as_trained
from layergraft.data.skipped import count_reasons
from layergraft.data.sources.source import Source
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.runs.interruption import check

Array = npt.NDArray[np.float32]
POOLINGS = ("cls", "mean", "cls+mean", "last4")
BATCH = 256
_THREADS, _AHEAD = 2, 4
# Raw pixels of more than this many bytes are made smaller: they are a floor, not a feature.
_PIXEL_SIDE, _PIXEL_BYTES = 64, 2**32
# Rows with larger numbers than the first are divided by the second, so that float32 holds the square of their length.
LARGE, _SHRINK = 2.0**56, 2.0**72
_BLOCK = 2**17  # numbers


@dataclass(frozen=True, kw_only=True)
class PatchDraw:
    """A random part of the patches of each image, as in `evaluate --keep`; it depends on seed, part, draw and image.

    Args:
        share: of an image's patches that the encoder sees; one at least.
        seed: of the draw.
        part: what the images are for: `train`, `test`, `holdout`.
        number: which draw.
    """

    share: float
    seed: int
    part: str
    number: int

    def kept(self, keys: npt.NDArray[np.int64], patches: int) -> Tensor:
        """Indices of the patches that are seen, of shape (N, K), for images by their keys (N,)."""
        random = Randomness(seed=self.seed, scope=f"keep {self.part}")
        noise = torch.from_numpy(random.uniform("patches", keys, self.number, patches))
        return noise.argsort(dim=1, stable=True)[:, : max(1, round(patches * self.share))]


class NonFiniteFeatures(UserError):
    """An encoder gives NaN or infinity: its weights have diverged.

    Args:
        count: how many images get such features.
        encoder: which encoder, as the user knows it.
    """

    def __init__(self, count: int, encoder: str = "the encoder") -> None:
        super().__init__(
            f"The features that {encoder} gives of {count} readable images are not finite (NaN or infinity).",
            "Its weights are too large or not finite themselves: it has diverged. Use an earlier checkpoint, or train "
            "again with a lower learning rate.",
        )
        self.count = count


@contextmanager
def features_named(encoder: str) -> Iterator[None]:
    """Say in `NonFiniteFeatures` which encoder it is about."""
    try:
        yield
    except NonFiniteFeatures as error:
        raise NonFiniteFeatures(error.count, repr(encoder)) from None


def check_block(block: int | None, encoder: Encoder, name: str) -> None:
    """Refuse a block that an encoder, called `name` in messages, has not."""
    if block is not None and not 0 <= block < encoder.depth:
        raise UserError(f"{name} has no block {block}.", f"Its blocks are 0 to {encoder.depth - 1}.")


def feature_width(encoder: Encoder, pooling: str, block: int | None = None) -> int:
    """Numbers of a pooled feature; arguments as for `pool_all`."""
    blocks = encoder.depth if block is None else block + 1
    return encoder.embed_dim * {"cls": 1, "mean": 1, "cls+mean": 2, "last4": min(4, blocks)}[pooling]


def is_class_token_alone(encoder: Encoder, poolings: Collection[str], block: int | None) -> bool:
    """Whether the last block computes nothing but the class token: quicker, and other in the last bits."""
    return list(poolings) == ["cls"] and block in (None, encoder.depth - 1)


def _readable_batches(
    source: Source, size: ImageSize, channels: int, batch_size: int, begin: int = 0
) -> Iterator[tuple[int, npt.NDArray[np.int64], Tensor]]:
    """Test views of a source from position `begin` on, batch by batch; unreadable images are left out.

    Yields:
        (first position of the batch, positions in the source of what could be read, their views); perhaps no position.

    Raises:
        UserError: at the end, no image of the source could be read; reasons are counted.
    """

    def load(start: int) -> tuple[int, npt.NDArray[np.int64], Tensor, dict[int, str]]:
        positions, views, reasons = [], [], {}
        for position in range(start, min(start + batch_size, len(source))):
            try:
                views.append(fixed_view(source.images.load(int(source.keys[position]), channels), size))
                positions.append(position)
            except BadImage as error:
                reasons[position] = str(error)
        stacked = np.stack(views) if views else np.empty((0, *height_and_width(size), channels), dtype=np.uint8)
        return start, np.array(positions, dtype=np.int64), torch.from_numpy(stacked).permute(0, 3, 1, 2), reasons

    unreadable: dict[int, str] = {}
    starts = iter(range(begin, len(source), batch_size))
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="layergraft-views") as pool:
        pending = deque(pool.submit(load, start) for _, start in zip(range(_AHEAD), starts, strict=False))
        while pending:
            check()
            first, positions, views, reasons = pending.popleft().result()
            pending.extend(pool.submit(load, start) for _, start in zip(range(1), starts, strict=False))
            unreadable |= reasons
            yield first, positions, views
    if len(source) and len(unreadable) == len(source):
        raise UserError(
            f"None of the {len(source)} images of {source.spec!r} can be read: {count_reasons(unreadable)}.",
            "Mend them, or name others.",
        )


def view_batches(source: Source, size: ImageSize, channels: int, batch_size: int = 256) -> Iterator[Tensor]:
    """Test views as uint8 batches (N, C, H, W). An image that cannot be read is black: it counts as an error.

    Raises:
        UserError: no image of the source can be read.
    """
    unreadable = 0
    for first, positions, views in _readable_batches(source, size, channels, batch_size):
        rows = min(batch_size, len(source) - first)
        if len(views) < rows:
            unreadable += rows - len(views)
            whole = views.new_zeros(rows, *views.shape[1:])
            whole[torch.from_numpy(positions - first)] = views
            views = whole
        yield views
    if unreadable:
        warnings.warn(f"{unreadable} of {len(source)} images of {source.spec!r} cannot be read: black", stacklevel=2)


def pool_all(
    encoder: Encoder,
    images: Tensor,
    poolings: Collection[str],
    block: int | None = None,
    keep: Tensor | None = None,
) -> dict[str, Tensor]:
    """Features of one batch in one pass, each after the final norm.

    Args:
        encoder: in evaluation mode.
        images: normalised, of shape (N, C, H, W).
        poolings: `cls` (the mean of the patches where there is no class token), `mean` of the patches, `cls+mean`
            side by side, `last4`, the class tokens of the last four blocks up to `block` side by side.
        block: whose output is pooled; None is the last.
        keep: indices of the patches that are seen, of shape (N, K); None sees all.

    Returns:
        pooling -> features of shape (N, D), (N, 2 D) or (N, 4 D).
    """
    last = encoder.depth - 1 if block is None else block
    if is_class_token_alone(encoder, poolings, block):
        return {"cls": encoder(images, keep)}
    lower_blocks = range(max(0, last - 3), last) if "last4" in poolings else ()
    tokens, blocks = encoder.run_blocks(
        encoder.tokens(images, keep), 0, last + 1, lower_blocks, rotation=encoder.rotation(images, keep)
    )
    tokens = encoder.norm(tokens)
    cls, mean = encoder.feature(tokens), tokens[:, encoder.prefix_tokens :].mean(dim=1)
    features = {"cls": cls, "mean": mean, "cls+mean": torch.cat([cls, mean], dim=1)}
    if "last4" in poolings:
        lower = [encoder.feature(encoder.norm(blocks[index])) for index in sorted(blocks)]
        features["last4"] = torch.cat([*lower, cls], dim=1)
    return {name: features[name] for name in poolings}


def pool(encoder: Encoder, images: Tensor, pooling: str, block: int | None = None) -> Tensor:
    """Normalised images -> features of one pooling; see `pool_all`."""
    return pool_all(encoder, images, [pooling], block)[pooling]


@torch.inference_mode()
def extract_all(
    encoder: Encoder,
    source: Source,
    poolings: Collection[str],
    block: int | None = None,
    first: Mapping[str, Array] | None = None,
    keep: Callable[[int, Mapping[str, Array]], None] | None = None,
    patches: PatchDraw | None = None,
) -> dict[str, Array]:
    """Features of every image in one pass over the source.

    Args:
        encoder: put into evaluation mode.
        source: images; where it leaves open how they are read, they are read as the encoder was trained.
        poolings: as for `pool_all`.
        block: as for `pool_all`.
        first: features of the first images, whole batches of them, which need not be computed again.
        keep: called after each batch with the number of images that are done and the features of all, as far as every
            one of them is finite.
        patches: which of them are seen; None sees all.

    Returns:
        pooling -> features of shape (N, D), float32; a row of an unreadable image is NaN.

    Raises:
        UserError: no image of the source can be read.
        NonFiniteFeatures: a readable image has a feature that is NaN or infinite.
    """
    encoder.eval()
    source = read_as_trained(source, encoder.reads)
    device = encoder.device
    normalize = Normalize(mean=encoder.mean, std=encoder.std)
    features: dict[str, Array] = {}
    begin = 0
    for name, rows in (first or {}).items():
        begin = len(rows)
        features[name] = np.full((len(source), rows.shape[1]), np.nan, dtype=np.float32)
        features[name][:begin] = rows
    diverged = 0
    for start, positions, views in _readable_batches(source, encoder.img_size, encoder.in_chans, BATCH, begin):
        if not len(positions):
            continue
        finite = np.ones(len(positions), dtype=np.bool_)
        seen = None if patches is None else patches.kept(source.keys[positions], encoder.num_patches).to(device)
        for name, pooled in pool_all(encoder, normalize(views.to(device)), poolings, block, seen).items():
            values = pooled.float().cpu().numpy()
            finite &= np.isfinite(values).all(axis=1)
            if name not in features:
                features[name] = np.full((len(source), values.shape[1]), np.nan, dtype=np.float32)
            features[name][positions] = values
        diverged += int((~finite).sum())
        if keep is not None and not diverged:
            keep(min(start + BATCH, len(source)), features)
    if diverged:
        raise NonFiniteFeatures(diverged)
    return features


def extract(encoder: Encoder, source: Source, pooling: str, block: int | None = None) -> Array:
    """Features of shape (N, D), float32, of one pooling; zero where an image is unreadable. See `extract_all`."""
    return np.nan_to_num(extract_all(encoder, source, [pooling], block)[pooling])


def pixel_side(size: ImageSize, channels: int, images: int) -> int:
    """Side at which raw pixels are compared: the encoder's shorter, at most 64, less where memory is too small."""
    side = min(*height_and_width(size), _PIXEL_SIDE)
    while images * side * side * channels * 4 > _PIXEL_BYTES and side > 8:
        side //= 2
    return side


def pixels(source: Source, size: ImageSize, channels: int, side: int | None = None) -> Array:
    """The floor every result is shown against: test views, row-centred and L2-normalised.

    Args:
        source: images.
        size: of the view.
        channels: of the view.
        side: the view is averaged down to a square of it; None leaves it.
    """
    height, width = height_and_width(side or size)
    floor = np.full((len(source), height * width * channels), np.nan, dtype=np.float32)
    for _, positions, batch in _readable_batches(source, size, channels, 256):
        if not len(positions):
            continue
        views = batch.permute(0, 2, 3, 1).numpy()
        if views.shape[1:3] != (height, width):
            smaller = [cv2.resize(view, (width, height), interpolation=cv2.INTER_AREA) for view in views]
            views = np.stack([view.reshape(height, width, -1) for view in smaller])
        floor[positions] = views.transpose(0, 3, 1, 2).reshape(len(views), -1)
    return center_and_normalize(floor)


def in_range(features: Array) -> Array:
    """Divide rows that are so large that their squares overflow float32; directions stay the same. (N, D) -> (N, D)."""
    large = np.maximum(features.max(axis=1, initial=0.0), -features.min(axis=1, initial=0.0)) > LARGE
    return np.where(large[:, None], features / np.float32(_SHRINK), features) if large.any() else features


def center_and_normalize(features: Array) -> Array:
    """Subtract each row's own mean, then L2-normalise it, in float32: (N, D) -> (N, D)."""
    result = np.empty(features.shape, dtype=np.float32)
    rows = max(1, _BLOCK // max(1, features.shape[1]))  # that stay in the processor's cache
    for start in range(0, len(features), rows):
        block = in_range(features[start : start + rows])
        centred = block - block.mean(axis=1, keepdims=True)
        norms = np.linalg.norm(centred, axis=1, keepdims=True)
        np.divide(centred, np.maximum(norms, 1e-12), out=result[start : start + rows], casting="same_kind")
    return result
