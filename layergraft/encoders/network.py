"""Build the networks of timm that an encoder can hold: the plain Vision Transformer, and its kin `Eva`."""

from __future__ import annotations

import difflib
from typing import Any, TypeAlias

import timm
from timm.layers import PatchEmbed
from timm.models import is_model_in_modules
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer, get_init_weights_vit, named_apply
from torch import nn

from layergraft.config.encoder import EncoderConfig, height_and_width
from layergraft.encoders.conv_stem import ConvStem
from layergraft.errors import UserError

Network: TypeAlias = VisionTransformer | Eva
_EVA_NAMES = {"reg_tokens": "num_reg_tokens", "fc_norm": "use_fc_norm"}  # what timm's Eva calls ViT's arguments


def is_eva(name: str) -> bool:
    """Whether timm builds an `Eva` by this name."""
    return bool(is_model_in_modules(name, {"eva"}))


def named_as_timm(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ViT by the names that timm's model of this name has for them."""
    names = _EVA_NAMES if is_eva(name) else {}
    return {names.get(key, key): value for key, value in arguments.items()}


def named_as_config(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of timm's models by the names that ViT, and so a recipe, has for them."""
    names = {theirs: ours for ours, theirs in _EVA_NAMES.items()}
    return {names.get(key, key): value for key, value in arguments.items()}


def pooling_args(name: str, vit: Network) -> dict[str, Any]:
    """How a network makes one feature of its tokens, as arguments of `timm.create_model`."""
    pooling = {"global_pool": vit.global_pool, "fc_norm": not isinstance(vit.fc_norm, nn.Identity)}
    return named_as_timm(name, pooling)


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
    pool = "avg" if config.class_token is False else config.global_pool
    if pool is not None:
        arguments |= {"global_pool": pool, "fc_norm": False}
    return named_as_timm(config.name, arguments)


def build_vit(name: str, arguments: dict[str, Any]) -> Network:
    """Build a Vision Transformer of timm, without classifier where the arguments do not ask for one.

    Args:
        name: timm's name of the model.
        arguments: of `timm.create_model`, and `stem: conv` for a convolutional stem.

    Returns:
        The network with timm's fresh weights, or those of the hub with `pretrained: True`.

    Raises:
        UserError: timm has no such model, it is neither a plain ViT nor an Eva, or the arguments do not fit.
    """
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models("*vit*"), cutoff=0.5)
        raise UserError(
            f"timm has no model {name!r}.", f"For instance: {', '.join(close or ['vit_small_patch16_224'])}."
        )
    timms = {"num_classes": 0} | {key: value for key, value in arguments.items() if key != "stem"}
    if arguments.get("stem") == "conv":
        if is_eva(name):
            raise UserError(f"{name!r} has no place for a convolutional stem.", "Set encoder.stem to `patch`.")
        timms["embed_layer"] = ConvStem
    if is_eva(name):
        timms["dynamic_img_size"] = True  # else it knows the angles of one grid alone
    try:
        vit = timm.create_model(name, **timms)
    except (AssertionError, AttributeError, LookupError, TypeError, RuntimeError, ValueError, ArithmeticError) as error:
        raise UserError(f"timm cannot build {name!r} with {arguments}: {error}") from None
    # A subclass has tokens of its own, a hybrid a whole network in front of them.
    known = type(vit) in (VisionTransformer, Eva) and isinstance(vit.patch_embed, PatchEmbed | ConvStem)
    if not known:
        raise UserError(
            f"{name!r} is not a plain Vision Transformer, nor one with rotary positions.",
            "For instance: vit_small_patch16_224, vit_small_patch16_dinov3.",
        )
    if vit.attn_pool is not None:  # a head on top of the features
        vit.reset_classifier(0, "avg" if vit.cls_token is None else "token")
    _check_pooling(name, vit)
    _check_patches(name, vit, arguments.get("img_size"))
    if isinstance(vit, Eva):
        # Both would draw from torch's global generator while training, which no step could repeat.
        vit.patch_drop = None
        if vit.rope is not None:
            vit.rope.aug_active = False
    return vit


def _check_pooling(name: str, vit: Network) -> None:
    """Refuse features that are neither the class token nor the mean of the patches."""
    with_prefix = getattr(vit, "pool_include_prefix", False) and vit.global_pool != "token"
    if vit.global_pool not in ("token", "avg") or with_prefix:
        raise UserError(
            f"{name!r} pools its tokens by {vit.global_pool!r}{' with class token and registers' * with_prefix}.",
            "A feature here is the class token (`token`) or the mean of the patches (`avg`).",
        )


def _check_patches(name: str, vit: Network, img_size: Any) -> None:
    """Refuse patches that are not square, and images that they do not tile."""
    patch, patch_width = vit.patch_embed.patch_size
    if patch != patch_width:
        raise UserError(f"{name!r} has patches of {patch}×{patch_width} pixels.", "Only square patches are known.")
    for side in () if img_size is None else height_and_width(img_size):
        if side % patch:
            raise UserError(
                f"encoder.img_size {img_size} is not a multiple of the patch size {patch}.",
                f"Use {side // patch * patch or patch} or {(side // patch + 1) * patch}, or change encoder.patch_size.",
            )


def initialize(vit: Network, config: EncoderConfig) -> None:
    """Fresh weights of MAE: xavier-uniform linears, the patch projection as a linear, tokens N(0, 0.02)."""
    if config.weight_init == "moco":
        if isinstance(vit, Eva):
            named_apply(get_init_weights_vit("moco"), vit)
        else:
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
