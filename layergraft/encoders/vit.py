"""The encoder: a timm `VisionTransformer` behind three verbs, `tokens`, `run_blocks` and `norm`.

Masking, the frozen trunk that two encoders share, probes and analyses are all written with these three. Parameters and
their names stay timm's (`encoder.vit`), so timm loads our result without us.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from typing import Any, cast

import timm
import torch
from timm.layers import PatchEmbed, resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from layergraft.config.encoder import EncoderConfig
from layergraft.data.decode.options import ReadOptions
from layergraft.encoders.batchnorm import BatchNorm
from layergraft.encoders.conv_stem import ConvStem
from layergraft.encoders.partial_block import partial_block
from layergraft.encoders.positions import sincos_positions
from layergraft.errors import UserError


class Encoder(nn.Module):
    """A timm ViT without its classifier.

    Args:
        vit: the network, with one position per token and no classifier.
        architecture: timm's model name.
        model_args: what `timm.create_model` needs besides it.
        mean: mean of each input channel, of pixels in [0, 1].
        std: standard deviation of each input channel.
    """

    def __init__(
        self,
        vit: VisionTransformer,
        architecture: str,
        model_args: dict[str, Any],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.vit = vit
        self.architecture = architecture
        self.model_args = model_args
        self.mean = mean
        self.std = std
        self.reads = ReadOptions()  # how the files that it was trained on were read
        self.recompute = False  # whether `run_blocks` keeps inputs alone and computes a block again for its gradient

    @property
    def depth(self) -> int:
        return len(self.vit.blocks)

    @property
    def embed_dim(self) -> int:
        return int(self.vit.embed_dim)

    @property
    def prefix_tokens(self) -> int:
        """Class token and registers, in front of the patches."""
        return int(self.vit.num_prefix_tokens)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, columns = cast(tuple[int, int], self.vit.patch_embed.grid_size)
        return rows, columns

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def patch_size(self) -> int:
        return int(self.vit.patch_embed.patch_size[0])

    @property
    def img_size(self) -> int:
        return self.grid[0] * self.patch_size

    @property
    def in_chans(self) -> int:
        return int(next(self.vit.patch_embed.proj.parameters()).shape[1])

    @property
    def per_sample(self) -> bool:
        """Whether an image's features do not depend on the others of its batch: no BatchNorm, as in a conv stem."""
        return not any(isinstance(module, BatchNorm) for module in self.modules())

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def patchify(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, patches, patch * patch * C); a patch is flattened as (row, column, channel)."""
        n, c, h, w = images.shape
        p = self.patch_size
        patches = images.reshape(n, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1)
        return patches.reshape(n, (h // p) * (w // p), p * p * c)

    def tokens(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Embed patches, add positions and prefix tokens.

        Args:
            images: normalised, of shape (N, C, H, W); of another size than the encoder's they get resized positions.
            keep: indices of the patches to embed, of shape (N, K); the others are never touched, but by a conv stem,
                whose patches overlap. None keeps all.

        Returns:
            Tokens of shape (N, prefix + K, D).
        """
        images = images.to(self.dtype)
        grid = (images.shape[2] // self.patch_size, images.shape[3] // self.patch_size)
        if keep is None:
            if grid == self.grid:
                return cast(Tensor, self.vit.norm_pre(self.vit._pos_embed(self.vit.patch_embed(images))))
            keep = torch.arange(grid[0] * grid[1], device=images.device).expand(len(images), -1)
        positions: Tensor = self.vit.pos_embed
        count = positions.shape[1] - self.num_patches
        if grid != self.grid:
            positions = resample_abs_pos_embed(positions, list(grid), list(self.grid), num_prefix_tokens=count)
        patch_positions = positions[:, count:].expand(len(images), -1, -1)
        embedded = self._embed_kept(images, keep)
        embedded = embedded + patch_positions.gather(1, keep[:, :, None].expand(-1, -1, self.embed_dim))
        front = [t for t in (self.vit.cls_token, self.vit.reg_token) if t is not None]
        if front:
            head = torch.cat(front, dim=1)
            if count:
                head = torch.cat([head[:, :count] + self.vit.pos_embed[:, :count], head[:, count:]], dim=1)
            embedded = torch.cat([head.expand(len(images), -1, -1), embedded], dim=1)
        return cast(Tensor, self.vit.norm_pre(embedded))

    def _embed_kept(self, images: Tensor, keep: Tensor) -> Tensor:
        """Embed the patches `keep` of (N, C, H, W), without positions -> (N, K, D)."""
        embed = self.vit.patch_embed
        if isinstance(embed, ConvStem):
            embedded = embed(images)
            return cast(Tensor, embedded.gather(1, keep[:, :, None].expand(-1, -1, self.embed_dim)))
        patches = self.patchify(images)
        chosen = patches.gather(1, keep[:, :, None].expand(-1, -1, patches.shape[2]))
        weight = embed.proj.weight.permute(0, 2, 3, 1).reshape(self.embed_dim, -1)
        return cast(Tensor, embed.norm(nn.functional.linear(chosen, weight, embed.proj.bias)))

    def run_blocks(
        self, tokens: Tensor, start: int = 0, stop: int | None = None, return_blocks: Collection[int] = ()
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Run blocks `start` to `stop` - 1.

        Args:
            tokens: of shape (N, T, D).
            start: first block.
            stop: behind the last block; None is the end.
            return_blocks: blocks whose output is wanted.

        Returns:
            (tokens after the last block, block -> its output).
        """
        outputs = {}
        for index in range(start, self.depth if stop is None else stop):
            tokens = self._run(self.vit.blocks[index], tokens)
            if index in return_blocks:
                outputs[index] = tokens
        return tokens, outputs

    def _run(self, call: Callable[..., Tensor], *args: Any) -> Tensor:
        """Run a block; where that is asked for, keep its input alone and run it again for the gradient."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(call, *args, use_reentrant=False)
        return call(*args)

    def norm(self, tokens: Tensor) -> Tensor:
        """The final LayerNorm."""
        return cast(Tensor, self.vit.norm(tokens))

    @property
    def feature_is_token(self) -> bool:
        """Whether the feature is the class token, else it is the mean of the patches."""
        return bool(self.vit.has_class_token and self.vit.global_pool == "token")

    def feature(self, tokens: Tensor) -> Tensor:
        """(N, T, D) after `norm` -> (N, D).

        The class token, or the mean of the patches where there is none, or where the weights were trained on that mean
        (timm's `global_pool: avg`); what timm gives without a classifier.
        """
        pooled = tokens[:, 0] if self.feature_is_token else tokens[:, self.prefix_tokens :].mean(dim=1)
        return cast(Tensor, self.vit.fc_norm(pooled))

    @property
    def final_bias(self) -> list[nn.Parameter]:
        """Bias of the last norm, which is added to every feature; empty where there is none."""
        last = self.vit.norm if isinstance(self.vit.fc_norm, nn.Identity) else self.vit.fc_norm
        return [p for name, p in last.named_parameters() if name == "bias"]

    def features_from(self, tokens: Tensor, start: int = 0) -> Tensor:
        """Tokens (N, T, D) in front of block `start` -> features (N, D).

        `run_blocks`, `norm` and `feature` in one, where nothing else is wanted: then the last block needs to make no
        token but the class token.
        """
        if start == self.depth or not self.feature_is_token:
            return self.feature(self.norm(self.run_blocks(tokens, start)[0]))
        tokens, _ = self.run_blocks(tokens, start, self.depth - 1)
        return self.feature(self.norm(self._run(partial_block, self.vit.blocks[-1], tokens, slice(0, 1))))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, C, H, W) -> features (N, D)."""
        return self.features_from(self.tokens(images))

    def layers(self) -> dict[str, list[nn.Parameter]]:
        """The rows of a graft plan and their parameters, from the module tree."""
        vit = self.vit
        rows: dict[str, list[nn.Parameter]] = {
            "patch_embed": [*vit.patch_embed.parameters(), *vit.norm_pre.parameters()],
            "positions": [vit.pos_embed] if vit.pos_embed is not None else [],
            "tokens": [token for token in (vit.cls_token, vit.reg_token) if token is not None],
        }
        rows |= {f"blocks.{index}": list(block.parameters()) for index, block in enumerate(vit.blocks)}
        rows["norm"] = [*vit.norm.parameters(), *vit.fc_norm.parameters()]
        return rows


def model_args(config: EncoderConfig) -> dict[str, Any]:
    """Translate an encoder's configuration into arguments of `timm.create_model`.

    Args:
        config: what is null in it is left to the model of that name.

    Returns:
        Arguments for `build_vit`: timm's, and `stem: conv` for a convolutional stem.
    """
    names = ["img_size", "in_chans", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "class_token"]
    names += ["reg_tokens", "init_values"]
    arguments = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    if config.stem == "conv":
        # The stem takes the place of one block (MoCo v3), where the recipe does not say how many there are.
        depth = {} if config.depth else {"depth": len(build_vit(config.name, {}).blocks) - 1}
        arguments |= {"stem": "conv"} | depth
    return arguments | ({"global_pool": "avg", "fc_norm": False} if config.class_token is False else {})


def build_vit(name: str, arguments: dict[str, Any]) -> VisionTransformer:
    """Build a plain Vision Transformer of timm, without classifier where the arguments do not ask for one.

    Args:
        name: timm's name of the model.
        arguments: of `timm.create_model`, and `stem: conv` for a convolutional stem.

    Returns:
        The network with timm's fresh weights, or those of the hub with `pretrained: True`.

    Raises:
        UserError: timm has no such model, it is no plain ViT, or the arguments do not fit.
    """
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models("*vit*"), cutoff=0.5)
        raise UserError(
            f"timm has no model {name!r}.", f"For instance: {', '.join(close or ['vit_small_patch16_224'])}."
        )
    image = arguments.get("img_size")
    timms = {"num_classes": 0} | {key: value for key, value in arguments.items() if key != "stem"}
    try:
        stem = {"embed_layer": ConvStem} if arguments.get("stem") == "conv" else {}
        vit = timm.create_model(name, **timms, **stem)
    except (AssertionError, AttributeError, LookupError, TypeError, RuntimeError, ValueError, ArithmeticError) as error:
        raise UserError(f"timm cannot build {name!r} with {arguments}: {error}") from None
    # A subclass has tokens of its own, a hybrid a whole network in front of them.
    if type(vit) is not VisionTransformer or not isinstance(vit.patch_embed, PatchEmbed | ConvStem):
        raise UserError(f"{name!r} is not a plain Vision Transformer.", "For instance: vit_small_patch16_224.")
    if vit.attn_pool is not None:  # a head on top of the features
        vit.reset_classifier(0, "token" if vit.has_class_token else "avg")
    rows, columns = vit.patch_embed.grid_size
    patch, patch_width = vit.patch_embed.patch_size
    if rows != columns or patch != patch_width:
        raise UserError(
            f"{name!r} has {rows}×{columns} patches of {patch}×{patch_width} pixels.",
            "Only square images and patches are known.",
        )
    if image is not None and image % patch:
        raise UserError(
            f"encoder.img_size {image} is not a multiple of the patch size {patch}.",
            f"Use {image // patch * patch or patch} or {(image // patch + 1) * patch}, or change encoder.patch_size.",
        )
    return vit


def _initialize(vit: VisionTransformer, config: EncoderConfig) -> None:
    """Fresh weights of MAE: xavier-uniform linears, the patch projection as a linear, tokens N(0, 0.02)."""
    if config.weight_init == "moco":
        vit.init_weights("moco")
    elif config.weight_init == "mae":
        for module in vit.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if not isinstance(vit.patch_embed, ConvStem):
            projection = vit.patch_embed.proj.weight
            nn.init.xavier_uniform_(projection.view(projection.shape[0], -1))
        for token in (vit.cls_token, vit.reg_token):
            if token is not None:
                nn.init.normal_(token, std=0.02)


def create_encoder(
    config: EncoderConfig, seed: int, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
) -> Encoder:
    """Create an encoder with fresh weights.

    Args:
        config: its description.
        seed: of its weights.
        mean: mean of each input channel, of pixels in [0, 1]; None is 0.5.
        std: standard deviation of each input channel; None is 0.25.

    Returns:
        The encoder in training mode.

    Raises:
        UserError: timm has no such model, or sizes do not fit each other.
    """
    arguments = model_args(config)
    if config.patch_size and config.img_size % config.patch_size:
        raise UserError(
            f"encoder.img_size {config.img_size} is not a multiple of encoder.patch_size {config.patch_size}.",
            "Change one of the two: the patches must tile the image.",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vit = build_vit(config.name, arguments)
        _initialize(vit, config)
        if config.positions == "sincos" and vit.pos_embed is not None:
            rows, columns = vit.patch_embed.grid_size
            prefix = vit.pos_embed.shape[1] - rows * columns
            vit.pos_embed.data.copy_(sincos_positions(vit.embed_dim, (rows, columns), prefix))
    channels = config.in_chans
    return Encoder(vit, config.name, arguments, mean or (0.5,) * channels, std or (0.25,) * channels)
