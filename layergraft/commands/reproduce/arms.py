"""The arms of the study: a recipe each, or some keys changed in one. Nothing here is trained in a way of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from layergraft.commands.study.arms import Arm


@dataclass(frozen=True, kw_only=True)
class RecipeArm(Arm):
    """An arm that is stages of a packaged recipe.

    Args:
        recipe: its recipe; None is no training at all.
        stages: its own stages of that recipe; those before are another arm's.
        changes: recipe keys that differ from the recipe's.
        graft: whether it continues MAE with the contrastive stage of `scratch`, so that the two are its parents; the
            best of these on held-out images is the chosen graft.
        claimed: whether a claim of `verdicts` speaks of it, beside the parents and the chosen graft; it has all seeds.
        suggested: whether its plan is the one that the measured conflict suggests.
        head: the last width of its heads: of MoCo v3 `wide`, as VICReg's; of VICReg `narrow`, as MoCo v3's.
    """

    recipe: str | None = None
    stages: tuple[str, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)
    graft: bool = False
    claimed: bool = False
    suggested: bool = False
    head: Literal["wide", "narrow"] | None = None


PARENTS = ("mae", "scratch")
BUDGET = "graft_uniform"  # the operations of its chain, MAE included, are what equal compute means
CONFLICT = "joint"  # on this arm's encoders the conflict is measured, at its end and after these parts of its steps
CONFLICT_AT = (0.05, 0.125, 0.25, 0.5, 0.75)
_PLAN = "stages.graft.plan."
_EVEN = {_PLAN + "lr_scale": 1.0}
_OBJECTIVE = "stages.graft.objective"
# MoCo v3 of `fashion_paper` without momentum encoder and predictor.
_SIMCLR = {"name": "simclr", "temperature": 0.2, "projector": [512, 512, 128], "keep_ratio": 0.5}


def _after_mae(name: str, title: str, recipe: str, stages: tuple[str, ...] = ("graft",), **other: Any) -> RecipeArm:
    return RecipeArm(name=name, title=title, recipe=recipe, stages=stages, first="mae", parents=PARENTS, **other)


def _graft(name: str, title: str, changes: Mapping[str, Any], **other: Any) -> RecipeArm:
    return _after_mae(name, title, "fashion_paper", changes=changes, graft=True, **other)


def _separator(name: str, title: str, recipe: str, changes: Mapping[str, Any], **other: Any) -> RecipeArm:
    return _after_mae(name, title, recipe, changes=changes, compute=False, **other)


ARMS: dict[str, RecipeArm] = {
    arm.name: arm
    for arm in (
        RecipeArm(name="mae", title="MAE", recipe="fashion_paper", stages=("mae",)),
        RecipeArm(name="scratch", title="MoCo v3 from scratch", recipe="fashion_cl_mim", stages=("moco",)),
        RecipeArm(
            name="joint",
            title="multi-task",
            recipe="fashion_joint",
            stages=("joint",),
            changes={"stages.joint.snapshots": CONFLICT_AT},
            parents=PARENTS,
            claimed=True,
        ),
        _graft("graft_uniform", "graft, all layers alike", _EVEN),
        _graft("graft_slow", "graft, slow lower layers", {_PLAN + "lr_scale": [0.3, 0.3, 1.0]}, claimed=True),
        _graft("graft_geometric", "graft, geometric 0.65", {_PLAN + "lr_scale": {"decay": 0.65}}),
        _graft("graft_suggested", "graft, suggested plan", {}, suggested=True),
        _after_mae("graft_frozen", "MIM→CL, frozen lower layers", "fashion_frozen", graft=True, claimed=True),
        RecipeArm(
            name="cl_mim",
            title="CL→MIM, frozen lower layers",
            recipe="fashion_cl_mim",
            stages=("mae",),
            first="scratch",
            parents=PARENTS,
            claimed=True,
        ),
        _after_mae("refiner", "MIM-Refiner's recipe", "fashion_refiner", ("heads", "refine"), encoder="encoder_ema"),
        _after_mae("graft_vicreg", "graft with VICReg", "fashion_vicreg"),
        # What is VICReg's lead made of? Each differs in one thing from `graft_vicreg` or `graft_uniform`.
        _separator("vicreg_half", "VICReg, half of the patches", "fashion_vicreg", {f"{_OBJECTIVE}.keep_ratio": 0.5}),
        _separator("vicreg_narrow", "VICReg, narrow head", "fashion_vicreg", {}, head="narrow"),
        _separator("graft_simclr", "graft with SimCLR", "fashion_paper", _EVEN | {_OBJECTIVE: _SIMCLR}),
        _separator("moco_wide", "MoCo v3 graft, wide head", "fashion_paper", _EVEN, head="wide"),
        _separator(
            "moco_whole", "MoCo v3 graft, all patches", "fashion_paper", _EVEN | {f"{_OBJECTIVE}.keep_ratio": 1.0}
        ),
        RecipeArm(name="random", title="random weights", floor="random", compute=False),
        RecipeArm(name="pixels", title="pixels", floor="pixels", compute=False),
    )
}
