"""What does MAE make of a quarter of the patches?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from layergraft.analysis.charts import gallery
from layergraft.analysis.pictures import show
from layergraft.analysis.subject import NotApplicable, Subject, inputs
from layergraft.config.objectives import MaeConfig
from layergraft.data.thumbnails import address
from layergraft.encoders.vit import Encoder
from layergraft.objectives.mae import Mae
from layergraft.runs.figure import ChartRows
from layergraft.runs.findings import Findings

IMAGES = 10


def unpatchify(encoder: Encoder, patches: Tensor) -> Tensor:
    """The inverse of `Encoder.patchify`: (N, patches, patch * patch * C) -> (N, C, H, W)."""
    (rows, columns), p, c = encoder.grid, encoder.patch_size, encoder.in_chans
    grid = patches.reshape(len(patches), rows, columns, p, p, c).permute(0, 5, 1, 3, 2, 4)
    return grid.reshape(len(patches), c, rows * p, columns * p)


def predicted_patches(encoder: Encoder, objective: Mae, images: Tensor, keep: Tensor) -> Tensor:
    """Every patch (N, patches, pixels) as the decoder sees it from the kept ones."""
    tokens, _ = encoder.run_blocks(encoder.tokens(images, keep), rotation=encoder.rotation(images, keep))
    latent = encoder.norm(tokens)
    prediction: Tensor = objective.heads["decoder"](latent, keep)
    if objective.config.norm_pix:
        # The decoder predicts normalised patches; their own mean and variance turn them into pixels.
        patches = encoder.patchify(images)
        prediction = prediction * (patches.var(-1, keepdim=True) + 1e-6).sqrt() + patches.mean(-1, keepdim=True)
    return prediction


@torch.inference_mode()
def reconstruct(subject: Subject) -> Findings:
    """Images, what the encoder sees of them, and what the decoder fills in."""
    part = subject.last_part(MaeConfig)
    if part is None:
        raise NotApplicable("no stage of its run has a fitted MAE decoder")
    encoder = part.stage.encoder()
    objective = part.load(encoder)
    assert isinstance(objective, Mae)
    source = subject.sample(IMAGES)
    images = next(inputs(encoder, source))
    noise = subject.random.uniform("mask", source.keys, 0, encoder.num_patches)
    keep, removed = objective.split(torch.from_numpy(noise.astype(np.float32)))
    patches = encoder.patchify(images)
    prediction = predicted_patches(encoder, objective, images, keep)
    mask = torch.zeros(patches.shape[:2]).scatter(1, removed, 1.0)[:, :, None]
    kinds = {
        "original": patches,
        "what it sees": patches * (1 - mask),
        "reconstruction": patches * (1 - mask) + prediction * mask,
    }
    data: ChartRows = []
    for kind, patches_shown in kinds.items():
        for column, image in enumerate(unpatchify(encoder, patches_shown)):
            name = source.images.name(int(source.keys[column]))
            data.append(
                {"row": kind, "column": column, "file": name, "kind": kind, "image": address(show(encoder, image))}
            )
    error = float(((prediction - patches).square().mean(-1) * mask[:, :, 0]).sum() / mask.sum())
    figure = gallery(
        "reconstruct",
        "Reconstructions",
        f"{subject.shown} as they are, what stage {part.stage.name} sees of them, and what it fills in.",
        data,
        "kind",
        "file",
    )
    return Findings(numbers={"masked_pixel_error": error, "images": len(source)}, figures=[figure])
