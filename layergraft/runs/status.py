"""Where a run stands, from its files alone: no torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal

from layergraft.config.loading import read_run_recipe
from layergraft.config.recipe import Recipe
from layergraft.config.stage import StageConfig
from layergraft.errors import UserError
from layergraft.runs.collapse import collapse_warnings
from layergraft.runs.ending import read_ending
from layergraft.runs.layout import is_done, stage_directory
from layergraft.runs.lock import is_held
from layergraft.runs.metrics import read_metrics
from layergraft.runs.readable import duration
from layergraft.runs.run_time import RunTime, read_run_time

_MOST_STEPS = 1e12  # of an epoch; more is damage
State = Literal["running", "finished", "stopped", "failed", "unfinished"]
_NOT_RUNNING: dict[int, State] = {0: "unfinished", 75: "stopped", 130: "stopped"}


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where a run stands.

    Args:
        run: its directory.
        state: `running`, `finished`; `stopped` by a signal; `failed`, see `message`; `unfinished` where it was killed.
        exit_code: of the last start; None while it runs, and after a kill.
        stage: the stage that trains or was the last to train; `evaluation` once all have.
        step: of the stage.
        steps: of the whole stage, where that is known.
        seconds_left: of the whole run, where its time was told; else of the stage, or None.
        knn: the last accuracy of kNN on held-out images in percent.
        warnings: what is to be looked at.
        message: how the last start ended, where it failed or was stopped.
    """

    run: str
    state: State
    exit_code: int | None = None
    stage: str | None = None
    step: int = 0
    steps: int | None = None
    seconds_left: float | None = None
    knn: float | None = None
    warnings: tuple[str, ...] = ()
    message: str = ""

    def line(self) -> str:
        """All of it in one line."""
        parts = [self.state if self.exit_code in (None, 0) else f"{self.state} (exit code {self.exit_code})"]
        if self.stage is not None and self.state != "finished":
            of = f" of {self.steps}" if self.steps else ""
            parts.append(f"{self.stage} step {self.step}{of}" if self.step else self.stage)
        if self.seconds_left is not None and self.state != "finished":
            parts.append(f"about {duration(self.seconds_left)} left")
        if self.knn is not None:
            parts.append(f"kNN {self.knn:.1f}")
        return f"{self.run}: {' · '.join(parts)}"


def read_status(run: Path) -> Status:
    """Read where a run stands.

    Raises:
        UserError: the directory holds no run.
    """
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"{str(run)!r} holds no run.", "Give the --out of a train command.")
    recipe = read_run_recipe(run)
    ending = read_ending(run)
    rows = {name: read_metrics(stage_directory(run, recipe, name) / "metrics.jsonl") for name in recipe.stages}
    begun = [name for name in recipe.stages if rows[name] or is_done(stage_directory(run, recipe, name))]
    trained = all(is_done(stage_directory(run, recipe, name)) for name in recipe.stages)
    if is_held(run):
        state: State = "running"
    elif all((run / name).is_file() for name in ("run.json", "report.html")):
        state = "finished"
    else:
        state = _NOT_RUNNING.get(ending["exit_code"], "failed") if ending else "unfinished"
    current = begun[-1] if begun else next(iter(recipe.stages))
    knn = [row["knn"] for name in recipe.stages for row in rows[name] if row.get("knn") is not None]
    step = int(rows[current][-1]["step"]) if rows[current] else 0
    steps = _steps(recipe.stages[current], rows[current])
    left = 0.0 if state == "finished" else _left(recipe, current, rows, read_run_time(run), steps, trained)
    note = ending if ending and state in ("stopped", "failed") else None
    return Status(
        run=str(run),
        state=state,
        exit_code=0 if state == "finished" else note["exit_code"] if note else None,
        stage="evaluation" if trained else current,
        step=0 if trained else step,
        steps=None if trained else steps,
        seconds_left=left,
        knn=float(knn[-1]) if knn else None,
        warnings=tuple(_warnings(run, recipe, rows[current])),
        message=note["message"] if note else "",
    )


def _steps(stage: StageConfig, rows: list[dict[str, Any]]) -> int | None:
    """Steps of a stage; where it is given in epochs, by the epochs of a row."""
    last = rows[-1] if rows else {}
    if stage.steps is None and not last.get("epoch"):
        return None
    if not last.get("epoch"):
        return stage.total_steps(1)
    per_epoch = last["step"] / last["epoch"]
    return stage.total_steps(max(1, round(per_epoch))) if per_epoch < _MOST_STEPS else None


def _left(
    recipe: Recipe,
    current: str,
    rows: dict[str, list[dict[str, Any]]],
    told: RunTime | None,
    steps: int | None,
    trained: bool,
) -> float | None:
    if trained:
        return None if told is None else told.evaluation + told.analyses
    seen = [row for row in rows[current] if row.get("time") is not None]  # a damaged line may have lost it
    # Of an interruption or a look at held-out images the median knows nothing.
    taken = [(b["time"] - a["time"]) / (b["step"] - a["step"]) for a, b in pairwise(seen) if b["step"] > a["step"]]
    if not taken or steps is None:
        return None if told is None else told.left(current, told.stages.get(current, 0.0))
    per_step = median(taken)
    of_stage = per_step * (steps - seen[-1]["step"])
    if told is None:
        return of_stage if current == list(recipe.stages)[-1] else None
    before = told.stages.get(current, 0.0) / steps
    return told.left(current, of_stage, per_step / before if before else 1.0)


def _warnings(run: Path, recipe: Recipe, rows: list[dict[str, Any]]) -> list[str]:
    looked: dict[str, Any] = next((row for row in reversed(rows) if "rankme" in row or "nonfinite_features" in row), {})
    said = collapse_warnings(recipe.monitor, looked, recipe.encoder.embed_dim)
    thrown_away = sum(row.get("loss", 0.0) is None for row in rows)
    if thrown_away:
        said.append(f"{thrown_away} logged steps were not finite and thrown away.")
    skipped = run / "skipped.jsonl"
    count = len(skipped.read_bytes().splitlines()) if skipped.is_file() else 0
    return said + ([f"{count} images were skipped; skipped.jsonl names them."] if count else [])
