"""Where an ENC that is a directory lies: which run, which stage, which encoder directory."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import parse_qsl

from layergraft.config.loading import read_run_recipe
from layergraft.config.objectives import ObjectiveConfig
from layergraft.config.paths import expanded
from layergraft.config.recipe import Recipe

if TYPE_CHECKING:
    from layergraft.runs.results import Results

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
PARTS = "model.safetensors.index.json"


class HeadsFile(TypedDict):
    """What is read of heads.json, which a stage leaves beside its heads."""

    objective: ObjectiveConfig


@dataclass(frozen=True, kw_only=True)
class Run:
    """The files of a run.

    Args:
        out: its directory.
        encoder: the last stage's encoder directory.
        results: `results.json`; it does not exist where nothing was measured.
        report: `report.html`.
    """

    out: Path
    encoder: Path
    results: Path
    report: Path

    def measured(self) -> Results:
        """Read what was measured: rows, `frame()`, a table in a notebook; empty where nothing was."""
        from layergraft.runs.results import Results, read_results

        return Results.of(read_results(self.results))

    def _repr_html_(self) -> str:
        address = html.escape(self.report.resolve().as_uri(), quote=True)
        link = f'<a href="{address}">{html.escape(self.report.name)}</a>'
        return f"<p>{html.escape(str(self.out))}: {link}</p>{self.measured()._repr_html_()}"


def has_weights(path: Path) -> bool:
    """Whether `read_directory` finds weights."""
    return any((path / name).is_file() for name in (*WEIGHTS, PARTS))


def encoder_directory(path: Path) -> Path | None:
    """The encoder directory that a run or stage directory stands for."""
    for candidate in (path, path / "encoder"):
        if has_weights(candidate) and (candidate / "config.json").is_file():
            return candidate
    return None


def last_stage(path: Path) -> Path:
    """The last stage of a run; any other directory itself."""
    stages = stage_directories(path)
    return stages[-1] if stages else path


def stage_directories(run: Path) -> list[Path]:
    """List RUN/stages/<n>-<name> by n."""
    numbered = [
        path for path in (run / "stages").glob("*-*") if path.name.partition("-")[0].isdecimal() and path.is_dir()
    ]
    return sorted(numbered, key=lambda path: int(path.name.partition("-")[0]))


def copy_of(encoder: str) -> str | None:
    """Which copy of a stage's encoder an ENC is: `momentum`, `ema`, or None for the one that was trained."""
    place, _, query = encoder.partition("?")
    folder = expanded(place).resolve().name
    if folder.startswith("encoder_"):
        return folder.removeprefix("encoder_")
    return dict(parse_qsl(query)).get("encoder")


def run_directory(encoder: str) -> tuple[Path, str | None] | None:
    """(run, name of the stage or None) of an ENC that is a run, one of its stages or a snapshot of one; else None."""
    path = expanded(encoder.partition("?")[0])
    for run in (path, path.parent):
        if (run / "recipe.yaml").is_file() and (run == path or path.name == "encoder"):
            return run, None
    snapshot = snapshot_of(encoder)
    for candidate in (path, path.parent) if snapshot is None else (snapshot.parents[1],):
        if candidate.parent.name == "stages" and (candidate.parents[1] / "recipe.yaml").is_file():
            return candidate.parents[1], candidate.name.partition("-")[2]
    return None


def stage_directory(run: Path, recipe: Recipe, name: str) -> Path:
    """RUN/stages/<n>-<name>."""
    return run / "stages" / f"{list(recipe.stages).index(name)}-{name}"


def snapshot_directory(stage: Path, part: float) -> Path:
    """STAGE/snapshots/PART: encoder and heads after a part of the stage's steps."""
    return stage / "snapshots" / f"{part:g}"


def snapshot_of(encoder: str) -> Path | None:
    """The directory of the snapshot that an ENC is; None for any other ENC."""
    path = expanded(encoder.partition("?")[0])
    return next((place for place in (path, path.parent) if place.parent.name == "snapshots"), None)


def is_done(directory: Path) -> bool:
    """Whether a stage has left all its files; plan.json is written last."""
    return (directory / "plan.json").is_file()


def encoder_name(encoder: str, out: Path | None = None) -> str:
    """How an ENC is called in results.json and analysis.json.

    Args:
        encoder: the ENC.
        out: the directory that the results go to; None is the encoder's own run.

    Returns:
        In its own run the stage's name, `STAGE/momentum` or `STAGE/0.25` (a snapshot); elsewhere, and where it is of no
        run, the ENC as given.
    """
    lies_in = run_directory(encoder)
    if lies_in is None:
        return encoder
    run, stage = lies_in
    if out is not None and out.resolve() != run.resolve():
        return encoder
    snapshot, copy = snapshot_of(encoder), copy_of(encoder)
    name = stage or list(read_run_recipe(run).stages)[-1]
    return name + (f"/{snapshot.name}" if snapshot else "") + (f"/{copy}" if copy else "")
