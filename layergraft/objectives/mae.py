"""Masked image modelling with MAE (He et al., CVPR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from layergraft.config.encoder import shown_size
from layergraft.config.objectives import MaeConfig
from layergraft.data.batch import Batch
from layergraft.encoders.batchnorm import Pending
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.objectives.base import Features, Losses, Objective, Progress
from layergraft.objectives.losses import at_least_float32, masked_pixel_loss
from layergraft.objectives.mae_decoder import MaeDecoder


class Mae(Objective):
    """Predict the pixels of removed patches from the visible ones (He et al., section 3).

    Args:
        config: mask ratio, targets, decoder.
        encoder: the encoder that it trains.
    """

    per_sample = True

    def __init__(self, config: MaeConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.heads["decoder"] = MaeDecoder(
            encoder.embed_dim,
            encoder.grid,
            encoder.patch_size**2 * encoder.in_chans,
            embed_dim=config.decoder.embed_dim,
            depth=config.decoder.depth,
            num_heads=config.decoder.num_heads,
            prefix_tokens=encoder.prefix_tokens,
        )

    def split(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Split noise (N, L) into indices of kept (N, K) and removed (N, L - K) patches; the least noise is kept."""
        order = noise.argsort(dim=1, stable=True)
        kept = int(noise.shape[1] * (1 - self.config.mask_ratio))
        return order[:, :kept], order[:, kept:]

    def encode(self, encoder: Encoder, batch: Batch) -> Features:
        images = batch.views["image"]
        if tuple(images.shape[2:]) != encoder.input_size:
            raise UserError(
                f"MAE's view has {shown_size(images.shape[2:])} pixels, but its decoder predicts "
                f"{shown_size(encoder.input_size)}.",
                "Leave views.image.size out.",
            )
        keep, removed = self.split(batch.uniform("mask", encoder.num_patches, images.device))
        tokens, _ = encoder.run_blocks(encoder.tokens(images, keep), rotation=encoder.rotation(images, keep))
        target = encoder.patchify(images)
        target = target.gather(1, removed[:, :, None].expand(-1, -1, target.shape[2]))
        return {"latent": encoder.norm(tokens), "keep": keep, "removed": removed, "target": target}

    def losses(self, features: Features, progress: Progress) -> tuple[Losses, Pending]:
        removed, target = features["removed"], features["target"]
        prediction = self.heads["decoder"](features["latent"], features["keep"], removed)
        everywhere = torch.ones(removed.shape, device=target.device)
        loss = masked_pixel_loss(at_least_float32(prediction), target, everywhere, norm_pix=self.config.norm_pix)
        return {"loss": loss}, {}
