"""Methods of lightly (https://github.com/lightly-ai/lightly) on a timm network, put together as its users would.

Heads, losses, masks, transforms and schedules are lightly's; the optimizer is AdamW, the batch torch's `DataLoader`.
Views are as strong as in our small recipes, which is also what lightly says of small images: half the colour jitter and
no blur. What lightly lacks of MoCo v3 is its loss (Chen et al., ICCV 2021, algorithm 1).
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from layergraft.config.encoder import ImageSize
from layergraft.encoders.conv_stem import ConvStem
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError

SMALL = 64  # pixels of a side, below which images count as small
TEMPERATURE, MOMENTUM = 0.2, 0.99
MASKED = 0.75
Step = Callable[[list[Tensor], int], Tensor]
Normalize = Mapping[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One method of lightly.

    Args:
        base_lr: learning rate at a batch of 256, which the factors of the search multiply.
        batch_size: images of a step, as in our small recipes.
        betas: AdamW's.
        weight_decay: of matrices.
        build: (encoder, whether its weights are fresh, steps) -> module that makes of the views of a batch and the
            number of a step its loss.
        transform: (size, statistics) -> what makes of a PIL image its views.
    """

    base_lr: float
    batch_size: int
    betas: tuple[float, float]
    weight_decay: float
    build: Callable[[Encoder, bool, int], nn.Module]
    transform: Callable[[ImageSize, Normalize], Callable[[Any], list[Tensor]]]


def is_installed() -> bool:
    """Whether lightly can be imported."""
    return importlib.util.find_spec("lightly") is not None


def check_network(encoder: Encoder) -> None:
    """Refuse what lightly's parts cannot train.

    Raises:
        UserError: the encoder is no plain ViT with a class token, or its images are neither grey nor RGB.
    """
    plain = isinstance(encoder.vit, VisionTransformer) and not isinstance(encoder.vit.patch_embed, ConvStem)
    if not plain or encoder.prefix_tokens != 1 or encoder.in_chans not in (1, 3):
        raise UserError(
            "lightly trains a plain ViT with a class token on grey or RGB images; the first recipe has another.",
            "Give --rivals none.",
        )


class _SimClr(nn.Module):
    """SimCLR: two views, one head, the other images of the batch as negatives."""

    def __init__(self, encoder: Encoder, fresh: bool, steps: int) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead

        super().__init__()
        width = encoder.embed_dim
        self.backbone = encoder.vit
        self.projection_head = SimCLRProjectionHead(width, 4 * width, width)
        self.criterion = NTXentLoss(temperature=TEMPERATURE)

    def forward(self, views: list[Tensor], step: int) -> Tensor:
        first, second = (self.projection_head(self.backbone(view)) for view in views)
        return _in_fp32(self.criterion, first, second)


class _MoCoV3(nn.Module):
    """MoCo v3: queries against the keys of a momentum encoder; the patch projection stays as it is."""

    def __init__(self, encoder: Encoder, fresh: bool, steps: int) -> None:
        from lightly.models.modules import MoCoProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        super().__init__()
        width, self.steps = encoder.embed_dim, steps
        deactivate_requires_grad(encoder.vit.patch_embed)
        self.backbone = encoder.vit
        self.projection_head = MoCoProjectionHead(width, 4 * width, width, num_layers=3, batch_norm=True)
        self.prediction_head = MoCoProjectionHead(width, 4 * width, width, num_layers=2, batch_norm=True)
        self.momentum_backbone = copy.deepcopy(self.backbone)
        self.momentum_head = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.momentum_backbone)
        deactivate_requires_grad(self.momentum_head)

    def forward(self, views: list[Tensor], step: int) -> Tensor:
        from lightly.models.utils import update_momentum
        from lightly.utils.scheduler import cosine_schedule

        momentum = cosine_schedule(step, self.steps, MOMENTUM, 1.0)
        update_momentum(self.backbone, self.momentum_backbone, m=momentum)
        update_momentum(self.projection_head, self.momentum_head, m=momentum)
        queries = [self.prediction_head(self.projection_head(self.backbone(view))) for view in views]
        with torch.no_grad():
            keys = [self.momentum_head(self.momentum_backbone(view)) for view in views]
        return _in_fp32(_contrast, queries[0], keys[1]) + _in_fp32(_contrast, queries[1], keys[0])


def _in_fp32(loss: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor) -> Tensor:
    """A loss as it is without autocast: like ours, it is no place to save digits."""
    with torch.autocast(first.device.type, enabled=False):
        return loss(first.float(), second.float())


def _contrast(queries: Tensor, keys: Tensor) -> Tensor:
    """Each query (N, D) names its key (N, D) among those of the batch: algorithm 1 of MoCo v3."""
    logits = nn.functional.normalize(queries, dim=1) @ nn.functional.normalize(keys, dim=1).T / TEMPERATURE
    labels = torch.arange(len(queries), device=queries.device)
    return nn.functional.cross_entropy(logits, labels) * 2 * TEMPERATURE


class _Mae(nn.Module):
    """MAE: a decoder of half the width and two blocks predicts the normalised pixels of hidden patches."""

    def __init__(self, encoder: Encoder, fresh: bool, steps: int) -> None:
        from lightly.models.modules.masked_vision_transformer_decoder_timm import MaskedVisionTransformerDecoderTIMM
        from lightly.models.modules.masked_vision_transformer_timm import MaskedVisionTransformerTIMM

        super().__init__()
        width = encoder.embed_dim // 2
        self.patch_size = encoder.patch_size
        self.backbone = MaskedVisionTransformerTIMM(
            vit=encoder.vit,
            weight_initialization="" if fresh else "skip",
            pos_embed_initialization="sincos" if fresh else "skip",
        )
        self.embed = nn.Linear(encoder.embed_dim, width)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=encoder.num_patches, embed_dim=width, depth=2, num_heads=max(1, width // 16)
        )
        self.predict = nn.Linear(width, encoder.patch_size**2 * encoder.in_chans)
        self.criterion = nn.MSELoss()

    def forward(self, views: list[Tensor], step: int) -> Tensor:
        from lightly.models import utils

        images = views[0]
        size = (len(images), self.backbone.sequence_length)
        kept, hidden = utils.random_token_mask(size, mask_ratio=MASKED, device=images.device)
        seen = self.embed(self.backbone.encode(images=images, idx_keep=kept))
        # Every place starts as a mask token; the patches that were seen are put where they belong.
        tokens = utils.repeat_token(self.decoder.mask_token, size)
        tokens = utils.set_at_index(tokens, kept, seen.type_as(tokens))
        predicted = self.predict(utils.get_at_index(self.decoder(tokens), hidden))
        patches = utils.patchify(images, self.patch_size)
        target = utils.normalize_mean_var(utils.get_at_index(patches, hidden - 1), dim=-1)  # place 0 is the class token
        return _in_fp32(self.criterion, predicted, target)


def _two_views(size: ImageSize, normalize: Normalize) -> Callable[[Any], list[Tensor]]:
    from lightly.transforms import SimCLRTransform

    small = (size if isinstance(size, int) else max(size)) < SMALL
    return cast(
        Callable[[Any], list[Tensor]],
        SimCLRTransform(
            input_size=size,
            cj_strength=0.5 if small else 1.0,
            gaussian_blur=0.0 if small else 0.5,
            min_scale=0.2,
            normalize=normalize,
        ),
    )


def _one_view(size: ImageSize, normalize: Normalize) -> Callable[[Any], list[Tensor]]:
    from lightly.transforms import MAETransform

    return cast(Callable[[Any], list[Tensor]], MAETransform(input_size=size, min_scale=0.3, normalize=normalize))


RIVALS: Mapping[str, Rival] = {
    "mae": Rival(base_lr=3e-3, batch_size=128, betas=(0.9, 0.95), weight_decay=0.05, build=_Mae, transform=_one_view),
    "moco": Rival(
        base_lr=4e-3, batch_size=64, betas=(0.9, 0.999), weight_decay=0.1, build=_MoCoV3, transform=_two_views
    ),
    "simclr": Rival(
        base_lr=4e-3, batch_size=64, betas=(0.9, 0.999), weight_decay=0.1, build=_SimClr, transform=_two_views
    ),
}
