"""What was measured beforehand and is shown beside a run, marked as recorded. It never enters results.json.

`recipes/recorded/NAME.json` holds, for a recipe of the package, the candidates that were compared on held-out images
(tools/compare_plans.py) and the rows of a baseline run (tools/record_baseline.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layergraft.config.loading import RECIPES, load_recipe
from layergraft.config.recipe import Recipe
from layergraft.runs.json_files import read_json

RECORDED = RECIPES / "recorded"


def record_file(name: str) -> Path:
    """Where the record of a recipe of the package lies."""
    return RECORDED / f"{name}.json"


def find_record(recipe: Recipe) -> dict[str, Any]:
    """The record of the package's recipe that a run followed; empty where it followed none.

    A run follows a recipe if network, images and stages are its own; seed, evaluation and engine may differ.
    """
    for file in sorted(RECORDED.glob("*.json")):
        original = load_recipe(file.stem)
        if (recipe.encoder, recipe.data.source, recipe.data.holdout, recipe.stages) == (
            original.encoder,
            original.data.source,
            original.data.holdout,
            original.stages,
        ):
            return read_json(file)
    return {}
