"""The arms of the study: a recipe each, or some keys changed in one. Nothing here is trained in a way of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

COMPUTE = "_compute"  # behind the name of an arm: the same at equal compute


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train an encoder.

    Args:
        name: what files and tables call it.
        title: for people.
        recipe: its recipe; None is no training at all.
        stages: its own stages of that recipe; those before are another arm's.
        first: the arm whose encoder they start from, with the same seed; None starts from fresh weights.
        changes: recipe keys that differ from the recipe's.
        encoder: which encoder is measured: the last stage's `encoder`, or its `encoder_ema`.
        parents: the arms it is compared with.
        compute: whether it is also trained for as many operations as MAE and the graft with equal layers take.
        graft: whether it continues MAE with the contrastive stage of `scratch`, so that the two are its parents; the
            best of these on held-out images is the chosen graft.
        suggested: whether its plan is the one that the measured conflict suggests.
    """

    name: str
    title: str
    recipe: str | None = None
    stages: tuple[str, ...] = ()
    first: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    encoder: str = "encoder"
    parents: tuple[str, ...] = ()
    compute: bool = True
    graft: bool = False
    suggested: bool = False


PARENTS = ("mae", "scratch")
BUDGET = ("mae", "graft_uniform")  # their operations are what equal compute means
CONFLICT = "joint"  # on this arm's encoders the conflict is measured
_PLAN = "stages.graft.plan."


def _graft(name: str, title: str, changes: Mapping[str, Any], **other: Any) -> Arm:
    return Arm(
        name=name,
        title=title,
        recipe="fashion_tiny",
        stages=("graft",),
        first="mae",
        changes=changes,
        parents=PARENTS,
        graft=True,
        **other,
    )


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm(name="mae", title="MAE", recipe="fashion_tiny", stages=("mae",)),
        Arm(
            name="scratch",
            title="MoCo v3 from scratch",
            recipe="fashion_cl_mim",
            stages=("moco",),
        ),
        Arm(
            name="joint",
            title="multi-task",
            recipe="fashion_joint",
            stages=("joint",),
            parents=PARENTS,
        ),
        _graft("graft_uniform", "graft, all layers alike", {_PLAN + "lr_scale": 1.0}),
        _graft("graft_slow", "graft, slow lower layers", {_PLAN + "lr_scale": [0.3, 0.3, 1.0]}),
        _graft("graft_geometric", "graft, geometric 0.65", {_PLAN + "lr_scale": {"decay": 0.65}}),
        _graft("graft_suggested", "graft, suggested plan", {}, suggested=True),
        Arm(
            name="graft_frozen",
            title="MIM→CL, frozen lower layers",
            recipe="fashion_frozen",
            stages=("graft",),
            first="mae",
            parents=PARENTS,
            graft=True,
        ),
        Arm(
            name="cl_mim",
            title="CL→MIM, frozen lower layers",
            recipe="fashion_cl_mim",
            stages=("mae",),
            first="scratch",
            parents=PARENTS,
        ),
        Arm(
            name="refiner",
            title="MIM-Refiner's recipe",
            recipe="fashion_refiner",
            stages=("heads", "refine"),
            first="mae",
            encoder="encoder_ema",
            parents=PARENTS,
        ),
        Arm(
            name="graft_vicreg",
            title="graft with VICReg",
            recipe="fashion_vicreg",
            stages=("graft",),
            first="mae",
            parents=PARENTS,
        ),
        Arm(name="random", title="random weights", compute=False),
        Arm(name="pixels", title="pixels", compute=False),
    )
}
