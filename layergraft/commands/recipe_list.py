"""`layergraft plan` without a recipe: the recipes that come with the package. It imports no torch, so it is quick."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table

from layergraft.config.loading import recipe_names, recipe_text


def list_recipes(as_json: bool) -> dict[str, str]:
    """Print name -> first line of the header of every recipe, as a table or JSON, and return it."""
    headers = {name: recipe_text(name).splitlines()[0].lstrip("# ") for name in recipe_names()}
    if as_json:
        print(json.dumps(headers))
        return headers
    table = Table(title="Recipes: layergraft plan --recipe NAME")
    table.add_column("name")
    table.add_column("what it does")
    for name, line in headers.items():
        table.add_row(name, line)
    Console().print(table)
    return headers
