"""What all arms of a study have in common: how each is searched and measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from msgspec import structs

from layergraft.commands.study.study_file import Choose
from layergraft.config import EvaluateConfig, Recipe
from layergraft.config.data import ViewConfig
from layergraft.evaluation.single_images import CONTRASTIVE


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The search and the measurements, the same for every arm.

    Args:
        evaluate: what is measured on frozen features; it may hold the stages of trained protocols.
        trained: trained protocols, with all labels.
        factors: of the recipe's learning rate: the trials of every arm's search; a single one is taken as it is.
        extended: how many more factors a search may try, one after the other, where the best so far is at an edge: as
            far beyond it as the next one within is away.
        trial: length of a trial, as a part of the arm's.
        goes_on: whether a seed that diverges is an outcome, beside which the others go on; else it ends the study.
        choose: by what rates and arms are chosen: few labels on held-out images, or views of held-out images alone.
        labelled: whether there are labels and test images; without, other held-out images stand for the test images,
            and it is their views that are recognised.
        scores: whether scores that need no label are measured of every encoder, to see how well they rank.
        view: the augmentation of views that are recognised or compared, the same for every arm.
    """

    evaluate: EvaluateConfig
    trained: tuple[Literal["linear", "finetune"], ...] = ()
    factors: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)  # of 0.5, 1, 2, 4 no arm took 0.5 and five took 4
    extended: int = 0
    trial: float = 1 / 3
    goes_on: bool = False
    choose: Choose = "held_out"
    labelled: bool = True
    scores: bool = False
    view: ViewConfig = CONTRASTIVE


def contrastive_view(recipes: Iterable[Recipe]) -> ViewConfig:
    """The view of the first contrastive loss among recipes: it changes what is not to matter; else the usual one."""
    for recipe in recipes:
        for stage in reversed(recipe.stages.values()):
            if "first" in stage.views:
                return structs.replace(stage.views["first"], size=None)
    return CONTRASTIVE
