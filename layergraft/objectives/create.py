"""Create an objective, with fresh heads, from its configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from layergraft.config.base import Config
from layergraft.config.objectives import (
    JointConfig,
    MaeConfig,
    MocoConfig,
    NnclrConfig,
    ObjectiveConfig,
    SimclrConfig,
    VicregConfig,
)
from layergraft.config.supervised import ClassifyConfig, SegmentConfig
from layergraft.data.masks import check_masks
from layergraft.data.sources.source import Source
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.objectives.base import Objective
from layergraft.objectives.classify import Classify
from layergraft.objectives.joint import Joint
from layergraft.objectives.mae import Mae
from layergraft.objectives.moco import Moco
from layergraft.objectives.nnclr import Nnclr
from layergraft.objectives.segment import Segment
from layergraft.objectives.simclr import Simclr
from layergraft.objectives.vicreg import Vicreg

OBJECTIVES: dict[type[Config], Callable[[Any, Encoder], Objective]] = {
    ClassifyConfig: Classify,
    MaeConfig: Mae,
    MocoConfig: Moco,
    NnclrConfig: Nnclr,
    SegmentConfig: Segment,
    SimclrConfig: Simclr,
    VicregConfig: Vicreg,
}


def know_classes(config: ObjectiveConfig, source: Source | None, where: str) -> ObjectiveConfig:
    """Fill in the number of classes of an objective that learns labels.

    Args:
        config: any objective's.
        source: the training images; None where they are not known.
        where: the stage, for messages.

    Raises:
        UserError: it has no labels, or nobody says how many classes there are.
    """
    if not isinstance(config, (ClassifyConfig, SegmentConfig)):
        return config
    if source is not None and isinstance(config, ClassifyConfig) and source.labels is None:
        raise UserError(
            f"Stage {where!r} learns classes, but the {len(source)} images of {source.spec!r} have no labels.",
            source.label_hint,
        )
    if isinstance(config, SegmentConfig) and source is not None:
        if source.masks is None:
            raise UserError(
                f"Stage {where!r} learns masks, but the {len(source)} images of {source.spec!r} have none.",
                "Give a folder with `images` and `annotations`, or builtin:fashion-scenes.",
            )
        classes = check_masks(source, config.classes or len(source.classes) or None)
        return msgspec.structs.replace(config, classes=classes)
    if config.classes is not None:
        return config
    if source is None or not source.classes:
        raise UserError(f"The number of classes of stage {where!r} is not known.", "Give --data, or objective.classes.")
    return msgspec.structs.replace(config, classes=len(source.classes))


def create_objective(config: ObjectiveConfig, encoder: Encoder) -> Objective:
    """Create the objective of a configuration, with fresh heads from torch's current random state.

    Args:
        config: any objective's; the number of classes is known.
        encoder: the encoder that it trains.
    """
    if isinstance(config, JointConfig):
        return Joint(config, {name: create_objective(part, encoder) for name, part in config.parts.items()})
    return OBJECTIVES[type(config)](config, encoder)
