"""The convolutional stem of MoCo v3's conv-stem ViTs (Chen et al., appendix; Xiao et al., NeurIPS 2021)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from layergraft.config.encoder import ImageSize, height_and_width
from layergraft.encoders.batchnorm import BatchNorm
from layergraft.errors import UserError

STRIDE = 16


class ConvStem(nn.Module):
    """Four 3×3 convolutions of stride 2, each with BatchNorm and ReLU, then a 1×1: patches of 16 pixels.

    It takes the place of timm's `PatchEmbed` (its `embed_layer`) and has the attributes that timm's ViT reads. Where it
    is `frozen`, it normalises by the statistics that it has: by those of the batch it would be another function of an
    image at every step, and its running statistics would move.

    Args:
        img_size: of the input, in pixels.
        patch_size: must be 16.
        in_chans: channels of the input.
        embed_dim: width of a token; the convolutions have an eighth, a quarter, a half and all of it.
        others: arguments of `PatchEmbed` that have no meaning here.

    Raises:
        UserError: another patch size, or a width that 8 does not divide.
    """

    def __init__(
        self,
        img_size: ImageSize = 224,
        patch_size: int = STRIDE,
        in_chans: int = 3,
        embed_dim: int = 768,
        **others: Any,
    ) -> None:
        super().__init__()
        if patch_size != STRIDE or embed_dim % 8:
            raise UserError(
                f"A conv stem needs patches of {STRIDE} and a width that 8 divides, not {patch_size} and {embed_dim}.",
                "Change encoder.patch_size or encoder.embed_dim, or use `stem: patch`.",
            )
        height, width = height_and_width(img_size)
        self.img_size = (height, width)
        self.patch_size = (STRIDE, STRIDE)
        self.grid_size = (height // STRIDE, width // STRIDE)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        layers: list[nn.Module] = []
        channels = in_chans
        for share in (8, 4, 2, 1):
            layers += [
                nn.Conv2d(channels, embed_dim // share, 3, stride=2, padding=1, bias=False),
                BatchNorm(embed_dim // share),
                nn.ReLU(inplace=True),
            ]
            channels = embed_dim // share
        self.proj = nn.Sequential(*layers, nn.Conv2d(embed_dim, embed_dim, 1))
        self.norm = nn.Identity()

    frozen: bool = False

    def train(self, mode: bool = True) -> ConvStem:
        return super().train(mode and not self.frozen)

    @property
    def is_new(self) -> bool:
        """Whether its BatchNorms have seen no image yet."""
        return not any(int(m.num_batches_tracked) for m in self.modules() if isinstance(m, BatchNorm))

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, patches, D)."""
        return self.proj(images).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]
