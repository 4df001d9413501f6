"""Classification: a linear probe on a frozen encoder, a whole grid of them, or fine-tuning. The plan decides which."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from layergraft.config.supervised import ClassifyConfig
from layergraft.data.batch import Batch, Normalize
from layergraft.data.mixing import erase, mix_pairs, soft_targets
from layergraft.data.sources.source import Source
from layergraft.encoders.batchnorm import BatchNorm, Pending, collect_pending
from layergraft.encoders.drop_path import DropPath, draw_paths, install_drop_path
from layergraft.encoders.vit import Encoder
from layergraft.evaluation.features import check_block, feature_width, pool, view_batches
from layergraft.objectives.base import Features, Losses, Objective, Progress
from layergraft.objectives.losses import at_least_float32


class Classify(Objective):
    """Cross-entropy of one linear classifier, or a grid of them, on pooled features.

    Args:
        config: heads, targets, regularisation; `classes` is known.
        encoder: the encoder that it trains, or probes.
    """

    selection_metric = "holdout_top1"
    best_head: Tensor

    def __init__(self, config: ClassifyConfig, encoder: Encoder) -> None:
        super().__init__()
        assert config.classes is not None
        self.config = config
        self.classes = config.classes
        self.per_sample = not config.batchnorm
        self.paths: list[DropPath] = []
        check_block(config.block, encoder, "The encoder")
        width = feature_width(encoder, config.pooling, config.block)
        self.norm = BatchNorm(width, affine=False) if config.batchnorm else nn.Identity()
        if config.projector is not None:
            # One layer of a sequence, like the projector it is taken from: names and shape agree.
            self.heads["projector"] = nn.Sequential(nn.Linear(width, config.projector, bias=False))
            width = config.projector
        self.names = list(config.linears())
        for name in self.names:
            linear = nn.Linear(width, self.classes)
            deviation = config.head_std
            nn.init.trunc_normal_(linear.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
            nn.init.zeros_(linear.bias)
            self.heads[name] = linear
        # Which linear is the classifier: the best on held-out images at the last online evaluation.
        self.register_buffer("best_head", torch.tensor(0))

    def unused_layers(self, encoder: Encoder) -> list[str]:
        block = encoder.depth - 1 if self.config.block is None else self.config.block
        return [f"blocks.{index}" for index in range(block + 1, encoder.depth)]

    def begin_stage(self, encoder: Encoder) -> None:
        self.paths = install_drop_path(encoder, self.config.drop_path)

    def logits(self, feature: Tensor) -> Tensor:
        """Compute the logits of every linear in one product: (N, D) -> (N, heads, classes)."""
        x = self.norm(feature)
        if self.config.projector is not None:
            x = self.heads["projector"](x)
        linears = [self.heads[name] for name in self.names]
        weight, bias = (torch.cat([getattr(linear, name) for linear in linears]) for name in ("weight", "bias"))
        return F.linear(x, weight, bias).view(len(x), len(linears), self.classes)

    def encode(self, encoder: Encoder, batch: Batch) -> Features:
        images, labels = batch.views["image"], batch.labels
        assert labels is not None
        targets = soft_targets(labels.to(images.device), self.classes, self.config.smoothing)
        if self.config.erasing:
            images = erase(images, self.config.erasing, batch.generators("erase"))
        if self.config.mix is not None:
            images, targets = mix_pairs(images, targets, self.config.mix, batch.generators("mix"))
        draw_paths(self.paths, batch.uniform("drop path", len(self.paths), images.device))
        return {"feature": pool(encoder, images, self.config.pooling, self.config.block), "target": targets}

    def losses(self, features: Features, progress: Progress) -> tuple[Losses, Pending]:
        logits = at_least_float32(self.logits(features["feature"]))
        # Every linear learns alone: the gradient of a sum of losses is, for each, that of its own.
        each = -(features["target"][:, None] * logits.log_softmax(2)).sum(2).mean(0)
        parts = {"loss": each.sum()}
        if len(self.names) > 1:
            parts["loss_lowest"] = each.min()
        return parts, collect_pending(self)

    @property
    def chosen(self) -> str:
        """Name of the linear that is the classifier."""
        return self.names[int(self.best_head)]

    @torch.no_grad()
    def predict(self, encoder: Encoder, images: Tensor) -> Tensor:
        """Compute the classifier's logits of normalised images: (N, C, H, W) -> (N, classes)."""
        return self.logits(pool(encoder, images, self.config.pooling, self.config.block))[:, int(self.best_head)]

    @torch.no_grad()
    def _hits(self, encoder: Encoder, source: Source) -> Tensor:
        """How many images of a source each linear classifies rightly, of shape (heads,)."""
        labels = torch.from_numpy(source.selected_labels)
        normalize = Normalize(mean=encoder.mean, std=encoder.std)
        device = self.best_head.device
        hits = torch.zeros(len(self.names), dtype=torch.int64)
        start = 0
        for pixels in view_batches(source, encoder.img_size, encoder.in_chans):
            feature = pool(encoder, normalize(pixels.to(device)), self.config.pooling, self.config.block)
            predicted = self.logits(feature).argmax(2).cpu()
            hits += (predicted == labels[start : start + len(predicted), None]).sum(0)
            start += len(predicted)
        return hits

    def evaluate_holdout(self, encoder: Encoder, source: Source) -> dict[str, float]:
        hits = self._hits(encoder, source)
        self.best_head.fill_(int(hits.argmax()))
        return {"holdout_top1": 100 * float(hits.max()) / len(source)}

    def measure(self, encoder: Encoder, source: Source) -> dict[str, float]:
        return {"top1": 100 * float(self._hits(encoder, source)[int(self.best_head)]) / len(source)}
