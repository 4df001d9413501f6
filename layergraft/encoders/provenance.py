"""What an encoder of a run says about the images that it was trained on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from layergraft.config.paths import expanded
from layergraft.config.recipe import Recipe
from layergraft.data.decode.options import ReadOptions, read_words
from layergraft.data.sources.source import Source
from layergraft.runs.json_files import read_json
from layergraft.runs.layout import encoder_directory


def _provenance(encoder: str) -> dict[str, Any]:
    """What `layergraft.json` of an ENC says; empty where it has none."""
    directory = encoder_directory(expanded(encoder.partition("?")[0]))
    file = directory / "layergraft.json" if directory else None
    return read_json(file) if file and file.is_file() else {}


def trained_on(encoder: str) -> str | None:
    """`Source.identity` of the images that an ENC was trained on; None where it does not say so."""
    identity = _provenance(encoder).get("images")
    return None if identity is None else str(identity)


def trained_reading(encoder: str) -> ReadOptions:
    """How the files of the images that an ENC was trained on were read, as far as it says so.

    Raises:
        UserError: what it says is no set of options.
    """
    return read_words(_provenance(encoder).get("input"), encoder)


def are_the_runs(source: Source, encoder: str, recipe: Recipe) -> bool:
    """Whether images are those that the run of an ENC split into training and held-out ones, by their names.

    An encoder that does not say what it was trained on leaves only the recipe's own words for it.
    """
    identity = trained_on(encoder)
    return recipe.data.source == source.spec if identity is None else identity == source.identity


def lie_where_the_runs_did(source: Source, recipe: Recipe) -> bool:
    """Return whether a source is at the path that a run was trained from, whatever is there by now."""
    trained, other = (spec.partition("?")[0] for spec in (recipe.data.source or "", source.spec))
    if trained == other:
        return True
    return "://" not in trained and _resolved(trained) == _resolved(other)


def _resolved(place: str) -> Path:
    return Path(os.path.expanduser(place)).resolve()
