"""The encoder: a timm Vision Transformer, described by timm's own argument names."""

from __future__ import annotations

from typing import Literal

from layergraft.config.base import Config, NonNegativeInt, PositiveFloat, PositiveInt


class EncoderConfig(Config, frozen=True, kw_only=True):
    """A timm `VisionTransformer`. A field that is null keeps the named model's own value.

    Args:
        name: timm's model name; the other fields change it.
        img_size: side of the square input, in pixels.
        in_chans: channels of the input.
        patch_size: side of a patch, in pixels; it must divide `img_size`.
        embed_dim: width of a token.
        depth: number of blocks.
        num_heads: attention heads of a block.
        mlp_ratio: hidden width of a block's MLP over `embed_dim`.
        class_token: whether there is a class token; without one the feature is the mean of the patches.
        reg_tokens: number of register tokens.
        init_values: LayerScale's start value; null for none.
        stem: `patch` is one linear projection of each patch; `conv` is MoCo v3's four convolutions with BatchNorm, with
            one block fewer where `depth` is null. timm cannot load such an encoder, `layergraft.load_encoder` does.
        positions: fresh position embeddings: the fixed 2-D sine-cosine table of MAE, or timm's random ones.
        weight_init: timm's scheme for fresh weights; `moco` is MoCo v3's (q, k, v by their own fan).
    """

    name: str = "vit_base_patch16_224"
    img_size: PositiveInt = 224
    in_chans: PositiveInt = 3
    patch_size: PositiveInt | None = None
    embed_dim: PositiveInt | None = None
    depth: PositiveInt | None = None
    num_heads: PositiveInt | None = None
    mlp_ratio: PositiveFloat | None = None
    class_token: bool | None = None
    reg_tokens: NonNegativeInt | None = None
    init_values: PositiveFloat | None = None
    stem: Literal["patch", "conv"] = "patch"
    positions: Literal["sincos", "random"] = "sincos"
    weight_init: Literal["mae", "moco", "timm"] = "mae"

    def __post_init__(self) -> None:
        if self.positions == "sincos" and self.embed_dim is not None and self.embed_dim % 4:
            raise ValueError("`embed_dim` must be a multiple of 4 for `positions: sincos`")
