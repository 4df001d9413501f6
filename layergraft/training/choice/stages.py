"""The stages of a chosen recipe, as the recipe writes them."""

from __future__ import annotations

from typing import Any

import msgspec

from layergraft.config.loading import load_recipe
from layergraft.training.choice.networks import KEPT, SEEN, Network


def stage_of(name: str, network: Network, bands: str, batch: int, steps: int) -> dict[str, Any]:
    """A stage: MAE, or MoCo v3 with the lower rows as it finds them.

    Args:
        name: `mae` or `graft`.
        network: the encoder's size.
        bands: what the channels are: `colour`, `grey` or `bands`.
        batch: images of a step.
        steps: its length.
    """
    if name == "mae":
        width, depth = network.decoder
        return {
            "objective": {
                "name": "mae",
                "mask_ratio": 1 - SEEN,
                "decoder": {"embed_dim": width, "depth": depth, "num_heads": max(1, width // 32)},
            },
            "views": {"image": {"crop_scale": [0.3, 1.0], "interpolation": "bilinear"}},
            "optimizer": {"base_lr": network.lr[0], "betas": [0.9, 0.95], "weight_decay": 0.05},
            "steps": steps,
            "batch_size": batch,
        }
    hidden = 4 * network.width
    # Grey levels and other bands have no hue; the small images of a CPU are not blurred.
    view = {"crop_scale": [0.2, 1.0], "jitter": 0.8, "gray": 0.2 if bands == "colour" else 0.0, "blur": 0.0}
    return {
        "objective": {
            "name": "moco",
            "temperature": 0.2,
            "momentum": 0.99,
            "projector": [hidden, hidden, 128],
            "predictor": [hidden, 128],
            "keep_ratio": KEPT,
        },
        "plan": {"lr_scale": 1.0, "freeze": ["patch_embed", "positions"]},
        "views": {"first": view, "second": view | {"solarize": 0.0}},
        "optimizer": {"base_lr": network.lr[1], "betas": [0.9, 0.999], "weight_decay": 0.1},
        "steps": steps,
        "batch_size": batch,
    }


def continued(few: bool, network: Network, bands: str, held: int) -> dict[str, dict[str, Any]]:
    """The stages of `continue_small` or `continue_large` for another network: stage -> the stage, without its length.

    Args:
        few: whether there are few images.
        network: the start's size.
        bands: what the channels are: `colour`, `grey` or `bands`.
        held: images that are held out; without two there is nothing to guard by.
    """
    recipe = load_recipe("continue_small" if few else "continue_large")
    slower = (recipe.encoder.embed_dim or network.width) / network.width  # wide networks take smaller steps
    stages = {}
    for name, stage in recipe.stages.items():
        sized = stage_of("graft", network, bands, 1, 1)
        raw = msgspec.to_builtins(stage)
        raw |= {"objective": sized["objective"], "views": sized["views"]}
        raw["optimizer"]["base_lr"] = float(f"{raw['optimizer']['base_lr'] * slower:.2g}")
        if held < 2:
            raw["guard"] = None
        stages[name] = raw
    stages["upper"]["plan"]["freeze"] = {"blocks": network.depth - max(1, network.depth // 3)}
    return stages
