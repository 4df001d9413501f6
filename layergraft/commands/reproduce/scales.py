"""How large a study is: images, encoder, lengths, and what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from layergraft.commands.study.settings import Settings
from layergraft.config import EvaluateConfig
from layergraft.config.data import HoldoutBy

HOLDOUT_BY: HoldoutBy = "class"  # as in the studies that are recorded; the classes of subsets differ in size


@dataclass(frozen=True, kw_only=True)
class Scale(Settings):
    """One size of the study, the same for every arm.

    Args:
        source: the images, where the command names none; None has to be told.
        holdout: images that train nothing, and on which everything is chosen.
        mae_epochs: length of masked image modelling.
        contrastive_epochs: length of all contrastive stages of an arm together.
        all_seeds: up to this many seeds every arm has all of them. The rest are for what claims speak of (parents,
            chosen graft and the arms that are compared with each other), and for what needs no training.
        recipe: keys of every recipe.
        changes: keys of every recipe that the command gives.
        mae: keys of a stage of masked image modelling.
        contrastive: keys of a contrastive stage.
        objectives: name of an objective -> its keys.
    """

    source: str | None = None
    holdout: int | float
    mae_epochs: float
    contrastive_epochs: float
    all_seeds: int = 3
    recipe: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    mae: Mapping[str, Any] = field(default_factory=dict)
    contrastive: Mapping[str, Any] = field(default_factory=dict)
    objectives: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


# Warm-up as a part of a stage's length: those of `fashion_paper` and its sisters.
WARMUP_MAE, WARMUP_CONTRASTIVE = 0.1, 0.125
_TWO_LAYERS = {"projector": [64, 64, 16], "predictor": [64, 16]}
_WIDE = {"projector": [2048, 2048, 256], "predictor": [2048, 256]}

_PROTOCOL = EvaluateConfig(protocols=("knn", "logistic"), shots=(1, 5, 10, 50, "1%", "10%"), splits=10)

_TINY = Scale(
    source="builtin:fashion-canvas?fraction=0.625",
    holdout=1500,
    mae_epochs=10,
    contrastive_epochs=4,
    evaluate=_PROTOCOL,
    extended=3,
    all_seeds=5,  # three leave open what VICReg's lead is made of
    scores=True,
)

SCALES: dict[str, Scale] = {
    # What the others do, but for searches beyond an edge, in a minute or two; its figures say nothing.
    "smoke": Scale(
        source="builtin:fashion-canvas?fraction=0.05",
        holdout=100,
        mae_epochs=1.0,
        contrastive_epochs=0.5,
        evaluate=EvaluateConfig(protocols=("knn", "logistic"), shots=(1, 5, "10%"), splits=2),
        factors=(1.0, 2.0),
        recipe={"encoder.embed_dim": 32, "encoder.depth": 3, "encoder.num_heads": 2},
        mae={"batch_size": 64},
        contrastive={"batch_size": 32},
        objectives={
            "moco": _TWO_LAYERS,
            "simclr": {"projector": _TWO_LAYERS["projector"]},
            "nnclr": _TWO_LAYERS | {"queue": 128},
            "vicreg": {"expander": [64, 64, 64]},
        },
    ),
    "tiny": _TINY,
    # The same in colour. Colours there say nothing of the class, and contrast learns nothing else unless most views are
    # grey: the share was chosen on held-out images, of 0, 0.5, 0.8 and 1.
    "colour": replace(
        _TINY,
        source="builtin:fashion-colour?fraction=0.625",
        recipe={"encoder.in_chans": 3},
        contrastive={"views.first.gray": 0.8, "views.second.gray": 0.8},
    ),
    # ViT-Tiny at 112 px on images of your own.
    "small": Scale(
        holdout=0.1,
        mae_epochs=100,
        contrastive_epochs=40,
        evaluate=_PROTOCOL,
        extended=3,
        scores=True,
        trained=("linear", "finetune"),
        recipe={
            "encoder.img_size": 112,
            "encoder.in_chans": 3,
            "encoder.patch_size": 16,
            "encoder.embed_dim": 192,
            "encoder.depth": 12,
            "encoder.num_heads": 3,
        },
        mae={"batch_size": 256, "optimizer.base_lr": 6.0e-4, "views": {}},
        contrastive={"batch_size": 256, "optimizer.base_lr": 6.0e-4, "views": {}},
        objectives={
            "mae": {"decoder": {"embed_dim": 128, "depth": 4, "num_heads": 4}},
            "moco": _WIDE,
            "simclr": {"projector": _WIDE["projector"]},
            "nnclr": _WIDE | {"queue": 16384, "local_size": 48},
            "vicreg": {"expander": [2048, 2048, 2048]},
        },
    ),
}
