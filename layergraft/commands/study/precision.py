"""One precision for all trainings of a study whose recipes leave it to the machine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from msgspec import structs

from layergraft.commands.study.directory import SETTINGS
from layergraft.config import Recipe
from layergraft.runs.json_files import read_json
from layergraft.training.precision import fastest_precision


def settled_mark(recipes: Iterable[Recipe], out: Path) -> dict[str, Any]:
    """What `engine.precision: auto` means in a study, for its `settings.json`: what the first start found.

    Args:
        recipes: of all arms.
        out: the study's directory.

    Returns:
        {"precision": `bf16-mixed` or `32-true`}; nothing where every recipe names its precision.
    """
    if all(recipe.engine.precision != "auto" for recipe in recipes):
        return {}
    file = out / SETTINGS
    known = read_json(file).get("precision") if file.is_file() else None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {"precision": known or fastest_precision(device)[0]}


def with_precision(recipe: Recipe, mark: dict[str, Any]) -> Recipe:
    """The recipe with `auto` as `settled_mark` has it."""
    if recipe.engine.precision != "auto":
        return recipe
    return structs.replace(recipe, engine=structs.replace(recipe.engine, precision=mark["precision"]))


def precision_lines(mark: dict[str, Any]) -> list[str]:
    """What is said of `settled_mark` before a study begins."""
    return [f"engine.precision auto is {mark['precision']} in all of this study."] if "precision" in mark else []
