"""What a run directory holds, read once; every part may be missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from layergraft.config.loading import read_run_recipe, recipe_text
from layergraft.config.recipe import Recipe
from layergraft.errors import UserError
from layergraft.runs.audit import Audit, read_audits
from layergraft.runs.examples import Examples, read_examples
from layergraft.runs.findings import Entry, read_analysis
from layergraft.runs.json_files import read_json, read_json_as
from layergraft.runs.layout import stage_directories
from layergraft.runs.metrics import read_metrics
from layergraft.runs.report.recorded import find_record
from layergraft.runs.results import ResultRow, read_results
from layergraft.runs.run_time import RunTime


class _Machine(TypedDict):
    cpu: str
    threads: int
    gpu: str | None
    versions: dict[str, str]


class _Data(TypedDict):
    source: str
    train: int
    holdout: int
    fingerprint: str | int | None


class _Time(TypedDict):
    taken: RunTime


class _EverySummary(TypedDict):
    """What the report reads of run.json."""

    recipe: str
    machine: _Machine
    seconds_since_start: float
    data: _Data


class _Summary(_EverySummary, total=False):
    """Likewise; runs of earlier versions have no `time`."""

    time: _Time


class _Anchor(TypedDict):
    norm: str
    weight: float


class _Layer(TypedDict):
    name: str
    source: str
    frozen: bool
    lr_scale: float | None
    lr: float | None
    weight_decay: float | None
    weight_decay_1d: float | None
    anchor: _Anchor | None
    parameters: int


class _Guard(TypedDict):
    sentence: str
    at_start: bool
    softened: int | None
    ended: int | None


class _EveryStage(TypedDict):
    """What the report reads of plan.json."""

    name: str
    objective: str
    epochs: float
    steps: int
    batch_size: int
    layers: list[_Layer]


class _Stage(_EveryStage, total=False):
    """Likewise; stages of earlier versions have no `guard`."""

    guard: _Guard | None


def _checked(path: Path, kind: Any) -> dict[str, Any]:
    """Read a JSON object that has at least the keys that are read of it."""
    read_json_as(path, kind)
    return read_json(path)


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
        audits: of audit.json.
        examples: of examples.json.
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
    audits: list[Audit] = field(default_factory=list)
    examples: list[Examples] = field(default_factory=list)

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
    text = recipe_text(recipe_file) if recipe_file.is_file() else ""
    recipe = read_run_recipe(path) if text else None
    directories = stage_directories(path)
    return RunFiles(
        path=path,
        name=name or path.resolve().name,
        recipe=recipe,
        recipe_text=text,
        stages=[_checked(stage / "plan.json", _Stage) for stage in directories if (stage / "plan.json").exists()],
        metrics=[row for stage in directories for row in read_metrics(stage / "metrics.jsonl")],
        results=read_results(path / "results.json"),
        analyses=read_analysis(path / "analysis.json"),
        audits=read_audits(path / "audit.json"),
        examples=read_examples(path / "examples.json"),
        summary=_checked(path / "run.json", _Summary) if (path / "run.json").exists() else {},
        record=find_record(recipe) if recipe is not None else {},
    )


def read_runs(paths: list[Path]) -> list[RunFiles]:
    """Several runs by names that tell them apart: as much of their paths as it takes."""
    depth = 1
    parents = [path.resolve().parts for path in paths]
    while len({parts[-depth:] for parts in parents}) < len(parents) and depth < max(map(len, parents)):
        depth += 1
    return [read_run(path, "/".join(parts[-depth:])) for path, parts in zip(paths, parents, strict=True)]
