"""The encoder: a timm `VisionTransformer` or `Eva` behind three verbs, `tokens`, `run_blocks` and `norm`.

Masking, the frozen trunk that two encoders share, probes and analyses are all written with these three. Parameters and
their names stay timm's (`encoder.vit`), so timm loads our result without us. An `Eva` is a ViT whose blocks may turn
queries and keys by the place of their patches (`rotary.py`): `run_blocks` is told which patches there are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, cast

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.eva import Eva
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from layergraft.config.encoder import EncoderConfig, ImageSize
from layergraft.data.decode.options import ReadOptions
from layergraft.encoders.batchnorm import BatchNorm
from layergraft.encoders.conv_stem import ConvStem
from layergraft.encoders.network import Network, build_vit, initialize, model_args
from layergraft.encoders.partial_block import partial_block
from layergraft.encoders.positions import sincos_positions
from layergraft.encoders.products import once_and_again
from layergraft.encoders.rotary import of_block, rotary_positions, rotation


class Encoder(nn.Module):
    """A timm ViT without its classifier.

    Args:
        vit: the network, without a classifier.
        architecture: timm's model name.
        model_args: what `timm.create_model` needs besides it.
        mean: mean of each input channel, of pixels in [0, 1].
        std: standard deviation of each input channel.
    """

    def __init__(
        self,
        vit: Network,
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
    def input_size(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        return self.grid[0] * self.patch_size, self.grid[1] * self.patch_size

    @property
    def img_size(self) -> ImageSize:
        """As a recipe says it: the side of a square image in pixels, or height and width."""
        height, width = self.input_size
        return height if height == width else (height, width)

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
        grid = self.grid_of(images)
        if keep is None:
            if isinstance(self.vit, Eva):  # which resizes positions itself
                return cast(Tensor, self.vit.norm_pre(self.vit._pos_embed(self.vit.patch_embed(images))[0]))
            if grid == self.grid:
                return cast(Tensor, self.vit.norm_pre(self.vit._pos_embed(self.vit.patch_embed(images))))
            keep = torch.arange(grid[0] * grid[1], device=images.device).expand(len(images), -1)
        embedded = self._embed_kept(images, keep)
        front = [t for t in (self.vit.cls_token, self.vit.reg_token) if t is not None]
        head = torch.cat(front, dim=1) if front else None
        positions: Tensor | None = self.vit.pos_embed
        if positions is not None:
            count = positions.shape[1] - self.num_patches
            if grid != self.grid:
                positions = resample_abs_pos_embed(positions, list(grid), list(self.grid), num_prefix_tokens=count)
            patch_positions = positions[:, count:].expand(len(images), -1, -1)
            embedded = embedded + patch_positions.gather(1, keep[:, :, None].expand(-1, -1, self.embed_dim))
            if head is not None and count:
                head = torch.cat([head[:, :count] + self.vit.pos_embed[:, :count], head[:, count:]], dim=1)
        if head is not None:
            embedded = torch.cat([head.expand(len(images), -1, -1), embedded], dim=1)
        return cast(Tensor, self.vit.norm_pre(embedded))

    def grid_of(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches of images (N, C, H, W)."""
        return images.shape[2] // self.patch_size, images.shape[3] // self.patch_size

    def rotation(self, images: Tensor, keep: Tensor | None = None) -> Tensor | None:
        """What blocks with rotary positions turn `tokens(images, keep)` by; None where blocks know no positions.

        Args:
            images: of shape (N, C, H, W); only their size counts.
            keep: as for `tokens`.
        """
        return rotation(self.vit, self.grid_of(images), keep)

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
        self,
        tokens: Tensor,
        start: int = 0,
        stop: int | None = None,
        return_blocks: Collection[int] = (),
        rotation: Tensor | None = None,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Run blocks `start` to `stop` - 1.

        Args:
            tokens: of shape (N, T, D).
            start: first block.
            stop: behind the last block; None is the end.
            return_blocks: blocks whose output is wanted.
            rotation: of these tokens, as `rotation` gives it; None is that of all patches of an image of the encoder's
                size, and will not do for others.

        Returns:
            (tokens after the last block, block -> its output).
        """
        turns = self._turns(tokens, rotation)
        outputs = {}
        for index in range(start, self.depth if stop is None else stop):
            tokens = self._run(self.vit.blocks[index], tokens, *of_block(self.vit, turns, index))
            if index in return_blocks:
                outputs[index] = tokens
        return tokens, outputs

    def _turns(self, tokens: Tensor, given: Tensor | None) -> Tensor | None:
        """The rotation of tokens (N, T, D): the one that was given, or that of all patches of the encoder's grid."""
        turns = rotation(self.vit, self.grid, None) if given is None else given
        patches = tokens.shape[1] - self.prefix_tokens
        if turns is not None and turns.shape[-2] != patches:
            raise ValueError(f"a rotation of {turns.shape[-2]} patches for {patches}: pass that of `Encoder.rotation`")
        return turns

    def _run(self, call: Callable[..., Tensor], *args: Any) -> Tensor:
        """Run a block; where that is asked for, keep its input alone and run it again for the gradient."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(call, *args, use_reentrant=False, context_fn=once_and_again)
        return call(*args)

    def norm(self, tokens: Tensor) -> Tensor:
        """The final LayerNorm."""
        return cast(Tensor, self.vit.norm(tokens))

    @property
    def feature_is_token(self) -> bool:
        """Whether the feature is the class token, else it is the mean of the patches."""
        return self.vit.cls_token is not None and self.vit.global_pool == "token"

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

    def features_from(self, tokens: Tensor, start: int = 0, rotation: Tensor | None = None) -> Tensor:
        """Tokens (N, T, D) in front of block `start` -> features (N, D).

        `run_blocks`, `norm` and `feature` in one, where nothing else is wanted: then the last block needs to make no
        token but the class token.

        Args:
            tokens: of shape (N, T, D).
            start: first block.
            rotation: as for `run_blocks`.
        """
        last = self.depth - 1
        if start == self.depth or not self.feature_is_token:
            return self.feature(self.norm(self.run_blocks(tokens, start, rotation=rotation)[0]))
        tokens, _ = self.run_blocks(tokens, start, last, rotation=rotation)
        turns = of_block(self.vit, self._turns(tokens, rotation), last)
        return self.feature(self.norm(self._run(partial_block, self.vit.blocks[last], tokens, slice(0, 1), *turns)))

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Normalised images (N, C, H, W), of which the patches `keep` (N, K) are seen, all by default -> features."""
        return self.features_from(self.tokens(images, keep), rotation=self.rotation(images, keep))

    def layers(self) -> dict[str, list[nn.Parameter]]:
        """The rows of a graft plan and their parameters, from the module tree."""
        vit, rope = self.vit, rotary_positions(self.vit)
        rows: dict[str, list[nn.Parameter]] = {
            "patch_embed": [*vit.patch_embed.parameters(), *vit.norm_pre.parameters()],
            "positions": [
                *([] if vit.pos_embed is None else [vit.pos_embed]),
                *([] if rope is None else rope.parameters()),
            ],
            "tokens": [token for token in (vit.cls_token, vit.reg_token) if token is not None],
        }
        rows |= {f"blocks.{index}": list(block.parameters()) for index, block in enumerate(vit.blocks)}
        rows["norm"] = [*vit.norm.parameters(), *vit.fc_norm.parameters()]
        return rows


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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vit = build_vit(config.name, arguments)
        initialize(vit, config)
        if config.positions == "sincos" and vit.pos_embed is not None:
            rows, columns = vit.patch_embed.grid_size
            prefix = vit.pos_embed.shape[1] - rows * columns
            vit.pos_embed.data.copy_(sincos_positions(vit.embed_dim, (rows, columns), prefix))
    channels = config.in_chans
    return Encoder(vit, config.name, arguments, mean or (0.5,) * channels, std or (0.25,) * channels)
