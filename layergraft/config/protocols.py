"""The trained protocols: stages that `evaluate` builds, trains and tests, as they are unless something is set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from layergraft.config.data import RandAugmentConfig, ViewConfig
from layergraft.config.plan import LrScaleConfig, PlanConfig
from layergraft.config.stage import OptimizerConfig, StageConfig, without_other
from layergraft.config.supervised import ClassifyConfig, GridConfig, MixConfig, SegmentConfig

FROZEN_ENCODER = ("patch_embed", "positions", "tokens", "blocks.*", "norm")

PROTOCOLS: dict[str, StageConfig] = {
    # 70 heads on one pass, SGD without momentum, 90 epochs: the protocol of the layer-grafting paper's code.
    "linear": StageConfig(
        objective=ClassifyConfig(grid=GridConfig()),
        plan=PlanConfig(freeze=FROZEN_ENCODER, weight_decay_1d=None),
        optimizer=OptimizerConfig(name="sgd", base_lr=1.0, weight_decay=0.0),
        epochs=90,
        batch_size=256,
    ),
    # Its settings for all labels and ViT-B, but for the length: 100 epochs there.
    "finetune": StageConfig(
        objective=ClassifyConfig(mix=MixConfig(), erasing=0.25, drop_path=0.1, smoothing=0.1, head_std=2e-5),
        plan=PlanConfig(lr_scale=LrScaleConfig(decay=0.6), freeze=(), weight_decay={"tokens": 0.0, "positions": 0.0}),
        views={"image": ViewConfig(interpolation="bicubic", rand_augment=RandAugmentConfig())},
        optimizer=OptimizerConfig(base_lr=5e-4, min_lr=1e-6, betas=(0.9, 0.999), weight_decay=0.05),
        epochs=30,
        warmup_epochs=2,
        batch_size=256,
    ),
    # Ours: a linear on the frozen patches. Its learning rate was chosen on held-out scenes of the built-in set: 4e-3
    # leaves the encoder of `fashion_paper` at 14 % mIoU after 120 steps, 4e-2 brings it to 24 %.
    "segment": StageConfig(
        objective=SegmentConfig(head="linear"),
        plan=PlanConfig(freeze=FROZEN_ENCODER),
        optimizer=OptimizerConfig(base_lr=4e-2, betas=(0.9, 0.999), weight_decay=1e-4),
        epochs=20,
        warmup_epochs=1,
        batch_size=64,
    ),
    # The settings of MAE's and BEiT's UperNet on ADE20K (lr 1e-4 at 16 images, layer decay 0.65), but for the length.
    "upernet": StageConfig(
        objective=SegmentConfig(head="upernet", drop_path=0.1),
        plan=PlanConfig(lr_scale=LrScaleConfig(decay=0.65), freeze=()),
        optimizer=OptimizerConfig(base_lr=1.6e-3, betas=(0.9, 0.999), weight_decay=0.05),
        epochs=20,
        warmup_epochs=1,
        batch_size=16,
    ),
}


def lay_over(default: StageConfig, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Raw configuration of a stage: `changes`, and the default's fields where it says nothing.

    Fields of objective, plan and optimizer are laid over one by one, so are those of each view; an objective of
    another name, or a value inside a field, takes the place of the default's.
    """
    defaults: dict[str, Any] = msgspec.to_builtins(default)
    merged = defaults | without_other(changes) | dict(changes)
    for key in ("objective", "plan", "optimizer"):
        part = changes.get(key)
        if isinstance(part, Mapping) and part.get("name", defaults[key].get("name")) == defaults[key].get("name"):
            merged[key] = defaults[key] | dict(part)
    if isinstance(changes.get("views"), Mapping):
        changed = {name: defaults["views"].get(name, {}) | dict(view or {}) for name, view in changes["views"].items()}
        merged["views"] = defaults["views"] | changed
    return merged
