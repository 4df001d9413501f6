"""Features of every image of a source, in its order."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from layergraft.data.augment import fixed_view
from layergraft.data.batch import Normalize
from layergraft.data.decode import BadImage
from layergraft.data.sources import Source
from layergraft.models.vit import Encoder

Array = npt.NDArray[np.float32]


def view_batches(source: Source, size: int, channels: int, batch_size: int = 256) -> Iterator[Tensor]:
    """Test views as uint8 batches (N, C, H, W). An image that cannot be read is black: it counts as an error."""
    unreadable = 0
    for start in range(0, len(source), batch_size):
        views = np.zeros((min(batch_size, len(source) - start), size, size, channels), dtype=np.uint8)
        for view, key in zip(views, source.keys[start : start + batch_size].tolist(), strict=True):
            try:
                view[...] = fixed_view(source.images.load(key, channels), size)
            except BadImage:
                unreadable += 1
        yield torch.from_numpy(views).permute(0, 3, 1, 2)
    if unreadable:
        warnings.warn(f"{unreadable} of {len(source)} images of {source.spec!r} cannot be read: black", stacklevel=2)


def pool(encoder: Encoder, images: Tensor, pooling: str) -> Tensor:
    """Normalised images -> features: `cls`, `mean` of patches, `cls+mean`, or `last4`, class tokens of four blocks."""
    if pooling == "cls":
        return encoder.finish(encoder.tokens(images))
    wanted = range(encoder.depth - 4, encoder.depth) if pooling == "last4" else ()
    tokens, blocks = encoder.run_blocks(encoder.tokens(images), return_blocks=wanted)
    if pooling == "last4":
        return torch.cat([encoder.feature(encoder.norm(blocks[index])) for index in sorted(blocks)], dim=1)
    tokens = encoder.norm(tokens)
    parts = {"cls": encoder.feature(tokens), "mean": tokens[:, encoder.prefix_tokens :].mean(dim=1)}
    return torch.cat([parts[name] for name in pooling.split("+")], dim=1)


@torch.inference_mode()
def extract(encoder: Encoder, source: Source, pooling: str) -> Array:
    """Features of shape (N, D), float32, from the test view."""
    encoder.eval()
    device = next(encoder.parameters()).device
    normalize = Normalize(mean=encoder.mean, std=encoder.std)
    parts = [
        pool(encoder, normalize(pixels.to(device)), pooling).float().cpu().numpy()
        for pixels in view_batches(source, encoder.img_size, encoder.in_chans)
    ]
    return np.concatenate(parts)


def pixels(source: Source, size: int, channels: int) -> Array:
    """The floor every result is shown against: test views, row-centred and L2-normalised."""
    parts = [batch.flatten(1).numpy().astype(np.float32) for batch in view_batches(source, size, channels)]
    return center_and_normalize(np.concatenate(parts))


def center_and_normalize(features: Array) -> Array:
    """Subtract each row's own mean, then L2-normalise it."""
    centred = features - features.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(norms, 1e-12), dtype=np.float32)
