"""Put weights into a network, and say what had to change; nothing is left out in silence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.layers import RmsNorm, resample_abs_pos_embed
from torch import Tensor, nn

from layergraft.config.encoder import ImageSize, height_and_width
from layergraft.encoders.identity import settings
from layergraft.encoders.network import build_vit, named_as_timm
from layergraft.encoders.rotary import rotary_positions
from layergraft.encoders.safe_load import Weights
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError

Say = Callable[[str], None]


def fill(encoder: Encoder, weights: Weights, name: str) -> None:
    """Load weights that must fit exactly.

    Args:
        encoder: what is filled.
        weights: with timm's names.
        name: where they come from, for messages.

    Raises:
        UserError: something is missing, unexpected, of another shape or not finite; all of it is listed.
    """
    expected = encoder.vit.state_dict()
    shared = sorted(expected.keys() & weights.keys())
    faults = {
        "missing": sorted(expected.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - expected.keys()),
        "other shape": [
            f"{key} {tuple(weights[key].shape)} for {tuple(expected[key].shape)}"
            for key in shared
            if expected[key].shape != weights[key].shape
        ],
        "not finite": [key for key in shared if not bool(weights[key].isfinite().all())],
    }
    if any(faults.values()):
        lines = [f"{fault}: {', '.join(keys)}" for fault, keys in faults.items() if keys]
        raise UserError(f"The weights of {name!r} do not fit the encoder.", "\n".join(lines))
    encoder.vit.load_state_dict({key: weights[key].to(expected[key].dtype) for key in expected})


def norm_eps(network: nn.Module) -> float:
    """What the norms of an encoder, or of a ViT, add to the variance; of the first, where one has an eps of its own."""
    return next(float(m.eps) for m in network.modules() if isinstance(m, nn.LayerNorm | RmsNorm))


def set_norm_eps(encoder: Encoder, eps: float) -> None:
    """Change what the encoder's norms add to the variance, but for those with an eps of their own."""
    usual = norm_eps(encoder)
    for module in encoder.vit.modules():
        if isinstance(module, nn.LayerNorm | RmsNorm) and module.eps == usual:
            module.eps = eps


def use_mean_of_patches(encoder: Encoder) -> None:
    """Make the mean of the patches, behind the final norm, the feature of an encoder with a class token."""
    if encoder.feature_is_token:
        encoder.vit.global_pool = "avg"
        pooling = named_as_timm(encoder.architecture, {"global_pool": "avg", "fc_norm": False})
        encoder.model_args = encoder.model_args | pooling


def num_heads(encoder: Encoder) -> int:
    """Attention heads of a block."""
    # Some of timm's blocks attend without a module for it and have the number themselves.
    return next(int(m.num_heads) for m in encoder.vit.blocks[0].modules() if hasattr(m, "num_heads"))


def block_kind(encoder: Encoder) -> str:
    """Class of the blocks and of their activation, which weights do not show: `Block with GELU`."""
    block = encoder.vit.blocks[0]
    acts = {type(m).__name__ for name, m in block.named_modules() if name.rpartition(".")[2] in ("act", "mlp_act")}
    return f"{type(block).__name__} with {', '.join(sorted(acts))}"


def rotation_kind(encoder: Encoder) -> str:
    """Class and settings of rotary positions, which weights do not show; `none` without them."""
    rope = rotary_positions(encoder.vit)
    if rope is None:
        return "none"
    told = [f"{name} {value}" for name, value in settings(rope) if name not in ("feat_shape", "depth")]
    return f"{type(rope).__name__} with {', '.join(told)}"


def _positions_like(donor: Encoder, like: Encoder, name: str, say: Say) -> Tensor:
    """The donor's positions for the grid and prefix tokens of another encoder of the same tokens."""
    positions: Tensor = donor.vit.pos_embed.detach()
    prefix = positions.shape[1] - donor.num_patches
    if donor.grid != like.grid:
        positions = resample_abs_pos_embed(positions, list(like.grid), list(donor.grid), num_prefix_tokens=prefix)
        old, new = ("×".join(map(str, grid)) for grid in (donor.grid, like.grid))
        say(f"{name}: pos_embed was resized from {old} to {new} patches (bicubic).")
    wanted = like.vit.pos_embed.shape[1] - like.num_patches
    if wanted > prefix == 0:  # no position is a position of zeros
        positions = torch.cat([positions.new_zeros(1, wanted, positions.shape[2]), positions], dim=1)
    return positions


def load_resized(donor: Encoder, like: Encoder, name: str, say: Say) -> Encoder:
    """Load weights of one encoder into another: positions are resized, all else must agree.

    Args:
        donor: whose weights are taken.
        like: whose shape is wanted; its weights are replaced.
        name: of the donor, for messages.
        say: called with a sentence for all that changes.

    Returns:
        `like`.

    Raises:
        UserError: they differ in more than image size.
    """
    if num_heads(donor) != num_heads(like):
        raise UserError(
            f"{name!r} has {num_heads(donor)} attention heads, the recipe's encoder {num_heads(like)}.",
            "Set encoder.num_heads, or append ?num_heads=… if the file's were assumed.",
        )
    if block_kind(donor) != block_kind(like):
        raise UserError(
            f"The blocks of {name!r} are {block_kind(donor)}, those of the recipe's encoder {block_kind(like)}.",
            "Set encoder.name; or put timm's config.json beside model.safetensors if the file's were assumed.",
        )
    if rotation_kind(donor) != rotation_kind(like):
        raise UserError(
            f"Rotary positions of {name!r}: {rotation_kind(donor)}; of the recipe's encoder: {rotation_kind(like)}.",
            "Set encoder.name to the model that the weights are of.",
        )
    weights = dict(donor.vit.state_dict())
    if "pos_embed" in weights and like.vit.pos_embed is not None:
        weights["pos_embed"] = _positions_like(donor, like, name, say)
    if norm_eps(donor) != norm_eps(like):
        say(f"{name}: its norms use eps {norm_eps(donor):g}, the recipe's encoder {norm_eps(like):g}.")
    fill(like, weights, name)
    return like


def resize_encoder(encoder: Encoder, img_size: ImageSize, name: str, say: Say) -> Encoder:
    """The same encoder for images of another size."""
    if height_and_width(img_size) == encoder.input_size:
        return encoder
    arguments = encoder.model_args | {"img_size": img_size}
    vit = build_vit(encoder.architecture, arguments)
    resized = Encoder(vit, encoder.architecture, arguments, encoder.mean, encoder.std)
    resized.reads = encoder.reads
    set_norm_eps(resized, norm_eps(encoder))
    return load_resized(encoder, resized, name, say)
