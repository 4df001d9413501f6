"""Segmentation: a linear on the patches of a frozen encoder, or UperNet on four blocks. The plan decides what moves."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from layergraft.config.supervised import SegmentConfig
from layergraft.data.batch import Batch, Normalize
from layergraft.data.sources.source import Source
from layergraft.encoders.batchnorm import BatchNorm, Pending, collect_pending
from layergraft.encoders.distributed import sum_over_processes, world_size
from layergraft.encoders.drop_path import DropPath, draw_paths, install_drop_path
from layergraft.encoders.vit import Encoder
from layergraft.evaluation.segmentation import confusion, scores
from layergraft.objectives.base import Features, Losses, Objective, Progress
from layergraft.objectives.losses import at_least_float32
from layergraft.objectives.upernet import UperNet

IGNORED = -1


def mean_over_pixels(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy averaged over the pixels of all processes that are not ignored.

    Args:
        logits: of shape (N, classes, H, W).
        target: classes of shape (N, H, W), `IGNORED` where there is none.
    """
    total = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
    count = sum_over_processes((target != IGNORED).sum())
    return total * (world_size() / count.clamp(min=1))  # gradients are averaged over processes


class Segment(Objective):
    """Cross-entropy of every pixel's class, from the patches of one block or four.

    Args:
        config: head; `classes` is known.
        encoder: the encoder that it trains, or probes.
    """

    selection_metric = "holdout_miou"

    def __init__(self, config: SegmentConfig, encoder: Encoder) -> None:
        super().__init__()
        assert config.classes is not None
        self.config = config
        self.classes = config.classes
        depth = encoder.depth
        self.paths: list[DropPath] = []
        quarters = tuple(max(0, (quarter * depth) // 4 - 1) for quarter in range(1, 5))
        self.blocks = (depth - 1,) if config.head == "linear" else config.blocks or quarters
        self.norm: nn.Module = nn.Identity()
        if config.head == "linear":
            self.norm = BatchNorm(encoder.embed_dim, affine=False) if config.batchnorm else nn.Identity()
            self.heads["linear"] = nn.Conv2d(encoder.embed_dim, self.classes, 1)
        else:
            self.heads["upernet"] = UperNet(encoder.embed_dim, config.width, self.classes)

    def begin_stage(self, encoder: Encoder) -> None:
        self.paths = install_drop_path(encoder, self.config.drop_path)

    def maps(self, encoder: Encoder, images: Tensor) -> Features:
        """Compute maps of normalised images (N, C, H, W): `block N` -> its normed patches, (N, D, rows, columns)."""
        _, outputs = encoder.run_blocks(
            encoder.tokens(images), return_blocks=self.blocks, rotation=encoder.rotation(images)
        )
        rows, columns = (side // encoder.patch_size for side in images.shape[2:])
        return {
            f"block {index}": encoder.norm(outputs[index])[:, encoder.prefix_tokens :]
            .transpose(1, 2)
            .reshape(len(images), -1, rows, columns)
            for index in self.blocks
        }

    def logits(self, maps: Features, height: int, width: int) -> Tensor:
        """Compute the logits of every pixel from the maps: (N, classes, height, width)."""
        x = [maps[f"block {index}"] for index in self.blocks]
        if self.config.head == "linear":
            n, d, rows, columns = x[0].shape
            flat = self.norm(x[0].permute(0, 2, 3, 1).reshape(-1, d))
            coarse = self.heads["linear"](flat.reshape(n, rows, columns, d).permute(0, 3, 1, 2))
        else:
            coarse = self.heads["upernet"](x)
        return F.interpolate(at_least_float32(coarse), (height, width), mode="bilinear", align_corners=False)

    def encode(self, encoder: Encoder, batch: Batch) -> Features:
        images = batch.views["image"]
        if self.paths:
            draw_paths(self.paths, batch.uniform("drop path", len(self.paths), images.device))
        return self.maps(encoder, images) | {"target": batch.masks["image"].long() - 1}

    def losses(self, features: Features, progress: Progress) -> tuple[Losses, Pending]:
        target = features["target"]
        logits = self.logits(features, *target.shape[1:])
        return {"loss": mean_over_pixels(logits, target)}, collect_pending(self)

    @torch.no_grad()
    def predict(self, encoder: Encoder, images: Tensor) -> Tensor:
        """Compute the logits of normalised images: (N, C, H, W) -> (N, classes, H, W)."""
        return self.logits(self.maps(encoder, images), *images.shape[2:])

    def measure(self, encoder: Encoder, source: Source) -> dict[str, float]:
        normalize, device = Normalize(mean=encoder.mean, std=encoder.std), next(self.heads.parameters()).device

        def predict(pixels: Tensor) -> Tensor:
            return self.predict(encoder, normalize(pixels.to(device))).cpu()

        size, channels = encoder.img_size, encoder.in_chans
        return scores(confusion(predict, source, self.classes, size, channels, self.config.zoom))

    def evaluate_holdout(self, encoder: Encoder, source: Source) -> dict[str, float]:
        return {f"holdout_{metric}": value for metric, value in self.measure(encoder, source).items()}
