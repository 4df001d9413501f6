"""Pictures of the report: MAE reconstructions and nearest neighbours, as inlined PNG."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from layergraft.checkpoints.encoder import load_encoder
from layergraft.config.objectives import MaeConfig
from layergraft.data.batch import Normalize
from layergraft.data.sources import Source
from layergraft.evaluation.features import extract, view_batches
from layergraft.objectives.mae import Mae
from layergraft.randomness import Randomness

Pixels = npt.NDArray[np.uint8]


def png(image: Pixels, scale: int = 2) -> str:
    """uint8 (H, W, C), grey or RGB -> a data address."""
    image = np.repeat(np.repeat(image, scale, 0), scale, 1)
    content = cv2.imencode(".png", image[:, :, ::-1] if image.shape[2] == 3 else image)[1]
    return "data:image/png;base64," + base64.b64encode(content.tobytes()).decode()


def _grid(rows: list[list[Pixels]], gap: int = 2) -> Pixels:
    tall = [
        np.concatenate([np.pad(image, ((gap, gap), (gap, gap), (0, 0)), constant_values=128) for image in row], 1)
        for row in rows
    ]
    return np.concatenate(tall, 0)


@torch.inference_mode()
def reconstructions(directory: Path, config: MaeConfig, source: Source, seed: int, count: int = 8) -> str:
    """Rows of original, masked input and reconstruction, for the first held-out images."""
    encoder = load_encoder(directory)
    objective = Mae(config, encoder).eval()
    objective.load_state_dict({f"heads.{k}": v for k, v in load_file(directory / "heads.safetensors").items()})
    sample = source.subset(source.keys[:count])
    images = Normalize(mean=encoder.mean, std=encoder.std)(
        next(view_batches(sample, encoder.img_size, encoder.in_chans))
    )
    noise = Randomness(seed=seed, scope="report").uniform("mask", sample.keys, 0, encoder.num_patches)
    keep, removed = objective.split(torch.from_numpy(noise.astype(np.float32)))
    latent = encoder.norm(encoder.run_blocks(encoder.tokens(images, keep))[0])
    prediction = objective.heads["decoder"](latent, keep)
    patches = encoder.patchify(images)
    if config.norm_pix:
        prediction = prediction * (patches.var(-1, keepdim=True) + 1e-6).sqrt() + patches.mean(-1, keepdim=True)
    mask = torch.zeros(patches.shape[:2]).scatter(1, removed, 1.0)[:, :, None]
    rows = [patches, patches * (1 - mask), patches * (1 - mask) + prediction * mask]
    (grid_rows, grid_columns), p, c = encoder.grid, encoder.patch_size, encoder.in_chans
    scale, shift = torch.tensor(encoder.std), torch.tensor(encoder.mean)
    pictures = []
    for row in rows:
        pixels = (
            row.reshape(-1, grid_rows, grid_columns, p, p, c)
            .permute(0, 1, 3, 2, 4, 5)
            .reshape(-1, grid_rows * p, grid_columns * p, c)
        )
        levels = ((pixels * scale + shift) * 255).round().clamp(0, 255).to(torch.uint8).numpy()
        pictures.append(list(levels))
    return png(_grid(pictures))


def neighbours(directory: Path, bank: Source, queries: Source, count: int = 6, nearest: int = 7) -> str:
    """Rows of a held-out image and its nearest training images by cosine."""
    encoder = load_encoder(directory)
    chosen = queries.subset(queries.keys[:count])
    bank = bank.subset(bank.keys[:4000])
    a, b = (torch.nn.functional.normalize(torch.from_numpy(extract(encoder, s, "cls")), dim=1) for s in (chosen, bank))
    index = (a @ b.T).topk(nearest).indices
    size, channels = encoder.img_size, encoder.in_chans
    shown = [next(view_batches(bank.subset(bank.keys[row.numpy()]), size, channels)) for row in index]
    own = next(view_batches(chosen, size, channels))
    rows = [[image.permute(1, 2, 0).numpy() for image in [own[i], *shown[i]]] for i in range(len(own))]
    return png(_grid(rows))
