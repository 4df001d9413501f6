"""What a run directory holds, read once; every part may be missing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layergraft.config.loading import read_run_recipe
from layergraft.config.recipe import Recipe
from layergraft.errors import UserError
from layergraft.runs.findings import Entry, read_analysis
from layergraft.runs.metrics import read_metrics
from layergraft.runs.report.recorded import find_record
from layergraft.runs.results import ResultRow, read_results


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """The files of a run directory, as the report reads them.

    Args:
        path: the directory.
        name: how the report calls it.
        recipe: None where the directory is no run but holds results or analyses.
        recipe_text: the recipe as YAML.
        stages: the plan of each finished stage.
        metrics: rows of all stages in order.
        results: rows of results.json.
        analyses: entries of analysis.json.
        summary: run.json; empty while the run is not finished.
        record: what was recorded for the recipe of the package that it followed; empty where it followed none.
    """

    path: Path
    name: str
    recipe: Recipe | None
    recipe_text: str
    stages: list[dict[str, Any]]
    metrics: list[dict[str, Any]]
    results: list[ResultRow]
    analyses: list[Entry]
    summary: dict[str, Any]
    record: dict[str, Any]

    @property
    def last_stage(self) -> str:
        return str(self.stages[-1]["name"]) if self.stages else ""


def read_run(path: Path, name: str | None = None) -> RunFiles:
    """Read a run directory, or one that holds results.json or analysis.json alone.

    Raises:
        UserError: it holds none of them.
    """
    recipe_file = path / "recipe.yaml"
    if not any((path / file).is_file() for file in ("recipe.yaml", "results.json", "analysis.json")):
        raise UserError(f"{str(path)!r} is no run.", "Give the --out of `layergraft train` or `layergraft analyze`.")
    text = recipe_file.read_text(encoding="utf-8") if recipe_file.is_file() else ""
    recipe = read_run_recipe(path) if text else None
    directories = sorted((path / "stages").glob("*-*"), key=lambda stage: int(stage.name.split("-")[0]))
    return RunFiles(
        path=path,
        name=name or path.resolve().name,
        recipe=recipe,
        recipe_text=text,
        stages=[_json(stage / "plan.json") for stage in directories if (stage / "plan.json").is_file()],
        metrics=[row for stage in directories for row in read_metrics(stage / "metrics.jsonl")],
        results=read_results(path / "results.json"),
        analyses=read_analysis(path / "analysis.json"),
        summary=_json(path / "run.json") if (path / "run.json").is_file() else {},
        record=find_record(recipe) if recipe is not None else {},
    )


def read_runs(paths: list[Path]) -> list[RunFiles]:
    """Several runs by names that tell them apart: as much of their paths as it takes."""
    depth = 1
    parts = [path.resolve().parts for path in paths]
    while len({own[-depth:] for own in parts}) < len(parts) and depth < max(map(len, parts)):
        depth += 1
    return [read_run(path, "/".join(own[-depth:])) for path, own in zip(paths, parts, strict=True)]


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
