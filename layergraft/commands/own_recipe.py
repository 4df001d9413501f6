"""A recipe where none was given: chosen for the images and the machine, or that of a run that goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layergraft.config.comments import Comments, with_comments
from layergraft.config.loading import dump_recipe, load_recipe
from layergraft.config.recipe import Recipe
from layergraft.errors import UserError
from layergraft.runs.announce import announce
from layergraft.runs.run_time import RunTime
from layergraft.training.choice.choose import usual_minutes
from layergraft.training.choice.fit import Fit, fitted
from layergraft.training.choice.images import look_at_images
from layergraft.training.choice.machine import look_at_machine
from layergraft.training.choice.start import look_at_start
from layergraft.training.launch import is_one_of_several


@dataclass(frozen=True, kw_only=True)
class OwnRecipe:
    """A recipe that was chosen.

    Args:
        recipe: complete.
        comments: dotted key -> why it has its value; None keeps those of a run that goes on.
        tried: its time, images and trials; None of a run that goes on.
    """

    recipe: Recipe
    comments: Comments | None = None
    tried: Fit | None = None

    @property
    def time(self) -> RunTime | None:
        """Of the whole run, by parts; None where it was not tried."""
        return self.tried.time if self.tried else None

    def text(self) -> str:
        """The recipe as YAML, with its reasons."""
        return with_comments(dump_recipe(self.recipe), self.comments or {})


def own_recipe(
    data: str, out: Path | None, minutes: float | None, overrides: Mapping[str, Any], start: str | None
) -> OwnRecipe:
    """Choose a recipe for images, or take that of the run in a directory.

    Args:
        data: the SOURCE.
        out: the run's directory, or None.
        minutes: of the whole run; None is the usual time.
        overrides: dotted key -> value.
        start: weights to start from, or None.

    Raises:
        UserError: there are no images, there are several processes, or an override does not fit.
    """
    if out is not None and (out / "recipe.yaml").is_file():
        announce(f"{out} holds a run: it goes on with its own recipe.")
        given = {"data.source": data} | ({"start": start} if start else {})
        return OwnRecipe(recipe=load_recipe(out / "recipe.yaml", given | dict(overrides)))
    if is_one_of_several():
        raise UserError(
            "Several processes need one recipe, and each would choose another.",
            f"Let one process write it: layergraft plan --data {data} --out my.yaml; then train --recipe my.yaml.",
        )
    if minutes is not None and not 0 < minutes < float("inf"):
        raise UserError(f"The time of the run cannot be {minutes:g} minutes.", "For instance --minutes 30.")
    images, machine = look_at_images(data), look_at_machine()
    weights = look_at_start(start) if start else None
    fit = fitted(images, machine, minutes or usual_minutes(machine), overrides, weights)
    announce(*fit.choice.notes, *([fit.time.sentence()] if fit.time else []))
    return OwnRecipe(recipe=fit.choice.recipe, comments=fit.choice.comments, tried=fit)
