"""The encoder: a timm Vision Transformer, described by timm's own argument names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from layergraft.config.base import Config, NonNegativeInt, PositiveFloat, PositiveInt

# Not `tuple[PositiveInt, PositiveInt]`: beside a number with a range msgspec 0.22 reads a wrong length, or crashes.
ImageSize = PositiveInt | Annotated[tuple[PositiveInt, ...], Meta(min_length=2, max_length=2)]
"""The side of a square image in pixels, or height and width."""


def height_and_width(size: ImageSize) -> tuple[int, int]:
    """An image's height and width, in pixels."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def shown_size(size: ImageSize | Sequence[int]) -> str:
    """An image's size as messages say it: `224`, the side of a square, or `192×256`."""
    return str(size) if isinstance(size, int) else "×".join(map(str, size))


class EncoderConfig(Config, frozen=True, kw_only=True):
    """A timm `VisionTransformer`, or `Eva` (DINOv3, EVA-02). A field that is null keeps the named model's own value.

    Args:
        name: timm's model name; the other fields change it.
        img_size: side of the square input in pixels, or `[height, width]`.
        in_chans: channels of the input.
        patch_size: side of a patch, in pixels; it must divide the sides of `img_size`.
        embed_dim: width of a token.
        depth: number of blocks.
        num_heads: attention heads of a block.
        mlp_ratio: hidden width of a block's MLP over `embed_dim`.
        class_token: whether there is a class token; without one the feature is the mean of the patches.
        reg_tokens: number of register tokens.
        init_values: LayerScale's start value; null for none.
        global_pool: whether the feature is the class token (`token`) or the mean of the patches (`avg`) where there is
            a class token; timm's DINOv3 has `avg`, its authors take `token`.
        stem: `patch` is one linear projection of each patch; `conv` is MoCo v3's four convolutions with BatchNorm, with
            one block fewer where `depth` is null. timm cannot load such an encoder, `layergraft.load_encoder` does.
        positions: fresh position embeddings: the fixed 2-D sine-cosine table of MAE, or timm's random ones. Rotary
            positions are the model's own, beside these or in their place.
        weight_init: timm's scheme for fresh weights; `moco` is MoCo v3's (q, k, v by their own fan).
    """

    name: str = "vit_base_patch16_224"
    img_size: ImageSize = 224
    in_chans: PositiveInt = 3
    patch_size: PositiveInt | None = None
    embed_dim: PositiveInt | None = None
    depth: PositiveInt | None = None
    num_heads: PositiveInt | None = None
    mlp_ratio: PositiveFloat | None = None
    class_token: bool | None = None
    reg_tokens: NonNegativeInt | None = None
    init_values: PositiveFloat | None = None
    global_pool: Literal["token", "avg"] | None = None
    stem: Literal["patch", "conv"] = "patch"
    positions: Literal["sincos", "random"] = "sincos"
    weight_init: Literal["mae", "moco", "timm"] = "mae"

    def __post_init__(self) -> None:
        if self.global_pool == "token" and self.class_token is False:
            raise ValueError("`global_pool: token` needs a class token")
        sides = height_and_width(self.img_size)
        if self.patch_size is not None and any(side % self.patch_size for side in sides):
            raise ValueError(
                f"`img_size` {shown_size(self.img_size)} is not a multiple of `patch_size` {self.patch_size}: "
                "the patches must tile the image"
            )
        if self.positions == "sincos" and self.embed_dim is not None and self.embed_dim % 4:
            raise ValueError("`embed_dim` must be a multiple of 4 for `positions: sincos`")
