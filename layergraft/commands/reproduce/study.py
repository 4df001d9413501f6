"""`layergraft reproduce`: do what is due until nothing is, and write what was found."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs
from rich.console import Console

from layergraft.commands.reproduce.accuracy import few_shot_mean, test_source
from layergraft.commands.reproduce.claims import FILE as CLAIMS
from layergraft.commands.reproduce.claims import write_claims
from layergraft.commands.reproduce.cost import Costs
from layergraft.commands.reproduce.jobs import JobOutcome, Study, read_outcome
from layergraft.commands.reproduce.pool import Pool
from layergraft.commands.reproduce.run_job import identity, run_job
from layergraft.commands.reproduce.scales import HOLDOUT_BY, SCALES, Scale
from layergraft.commands.reproduce.study_file import FILE, as_study, read_study
from layergraft.commands.reproduce.study_json import study_record
from layergraft.data.sources.holdout import split_holdout
from layergraft.data.sources.open import open_source
from layergraft.errors import UserError
from layergraft.evaluation.splits import draw_splits
from layergraft.runs.atomic import write_text
from layergraft.runs.interruption import SignalGuard, check
from layergraft.runs.json_files import read_json, read_json_as
from layergraft.runs.lock import locked
from layergraft.runs.readable import duration
from layergraft.runs.resume import is_unused
from layergraft.training.launch import available_cores, machine

SETTINGS = "settings.json"


def reproduce_study(scale_name: str, data: str | None, seeds: int, out: Path, jobs: int | None) -> Path:
    """Train, search and measure every arm; goes on where an earlier start ended.

    Args:
        scale_name: one of `SCALES`.
        data: the images; None are the scale's own.
        seeds: how many pre-training seeds.
        out: directory of the study.
        jobs: how many jobs at a time; None is one a core, or one on a GPU.

    Returns:
        `study.json`; `claims.json` and `report.html` lie beside it.

    Raises:
        Stopped: a signal came; everything is saved.
        UserError: images or directory do not serve.
    """
    console = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    if seeds < 1:
        raise UserError("There must be at least one seed.", "Give --seeds 5.")
    if jobs is not None and jobs < 1:
        raise UserError("There must be at least one job at a time.", "Give --jobs 2.")
    source = data or SCALES[scale_name].source
    if source is None:
        raise UserError(f"Scale {scale_name!r} has no images of its own.", "Give --data FOLDER.")
    _refuse_another(out, scale_name, source)
    with SignalGuard(), locked(out, say):
        return _go_on(scale_name, source, seeds, out, jobs, say)


def _go_on(scale_name: str, source: str, seeds: int, out: Path, jobs: int | None, say: Callable[[str], None]) -> Path:
    """As `reproduce_study`, in a directory that is held."""
    with SignalGuard():
        scale = SCALES[scale_name]
        scale, images = with_possible_shots(scale, source, say)
        check()
        folder, clock = _claim(out, scale_name, source), _Clock(out / "seconds.json")
        say(f"Counting operations: {images} images of {source} train.")
        study = Study(scale, source, list(range(seeds)), out, Costs(scale, source, images))
        outcomes = _read_outcomes(study, folder)
        check()
        if _is_finished(study, outcomes):
            say(f"The study in {out} is finished; nothing to do. Its claims: {out / CLAIMS}")
            return out / FILE
    size = jobs or _jobs()
    with SignalGuard(hold=True) as signals, Pool(size, out / "jobs.log") as pool, clock:
        while True:
            for job in islice(study.due(outcomes, pool.running), pool.free):
                pool.start(job.name, run_job, job, scale, out)
            if not pool.running:
                break
            for name, outcome in pool.finished(signals):
                outcomes[name] = outcome
                clock.save()
                say(_line(study, outcomes, name, size))
    command = f"layergraft reproduce --scale {scale_name}"
    if source != SCALES[scale_name].source:
        command += f" --data {source}"
    origin = {
        "scale": scale_name,
        "source": source,
        "seeds": study.seeds,
        "command": f"{command} --seeds {seeds} --out {out}",
        "commit": _commit(),
        "machine": _machine(),
        "seconds": clock.seconds,
    }
    record = origin | study_record(study, outcomes)
    file = out / FILE
    write_text(file, json.dumps(record, indent=1) + "\n")
    page = write_claims(as_study(record), out)
    say(f"Study:  {file}\nClaims: {out / CLAIMS}\nReport: {page}")
    return file


def with_possible_shots(scale: Scale, source: str, say: Callable[[str], None]) -> tuple[Scale, int]:
    """The scale with the numbers of shots that there are images for, and how many images train.

    Raises:
        UserError: there are no labels, no test images, or classes with a single image.
    """
    train, _ = split_holdout(open_source(source), scale.holdout, 0, HOLDOUT_BY)
    open_source(test_source(source))
    fewest = int(np.bincount(train.selected_labels, minlength=len(train.classes)).min())
    shots = scale.evaluate.frozen_shots
    possible = tuple(k for k in shots if not isinstance(k, int) or k <= fewest)
    if possible != shots:
        say(f"The smallest class has {fewest} training images: no more shots than these are measured.")
    draw_splits(train, possible, 1)
    if not any(isinstance(k, int) for k in possible):
        raise UserError(f"{source!r} has a class without training images.", "Every class needs some.")
    return replace(scale, evaluate=structs.replace(scale.evaluate, shots=possible)), len(train)


def _refuse_another(out: Path, scale: str, source: str) -> None:
    """Find out whether the directory may be this study's; nothing is changed.

    Raises:
        UserError: it holds something else.
    """
    file = out / SETTINGS
    if file.is_file():
        settings = read_json(file)
        if settings != {"scale": scale, "source": source}:
            raise UserError(f"{str(out)!r} holds another study: {json.dumps(settings)}.", "Use another --out.")
    elif not is_unused(out):
        raise UserError(f"{str(out)!r} exists and is no study.", "Use another --out. Nothing was changed.")


def _claim(out: Path, scale: str, source: str) -> Path:
    """Make the directory the study's own; returns where its outcomes lie.

    Raises:
        UserError: it holds something else.
    """
    _refuse_another(out, scale, source)
    if not (out / SETTINGS).is_file():
        write_text(out / SETTINGS, json.dumps({"scale": scale, "source": source}) + "\n")
    return out / "outcomes"


def _read_outcomes(study: Study, folder: Path) -> dict[str, JobOutcome]:
    """The outcomes of an earlier start, in the order in which they became possible.

    Raises:
        UserError: one is of a job with other settings, or damaged.
    """
    files = {str(path.relative_to(folder).with_suffix("")): path for path in folder.glob("*/*.json")}
    outcomes: dict[str, JobOutcome] = {}
    while ready := [job for job in study.due(outcomes) if job.name in files]:
        for job in ready:
            outcome = read_outcome(files[job.name], job.kind)
            if outcome["identity"] != identity(job, study.scale):
                raise UserError(
                    f"{str(files[job.name])!r} was found with other settings, or by another version of layergraft.",
                    "Use another --out. Nothing was changed.",
                )
            outcomes[job.name] = outcome
    return outcomes


def _is_finished(study: Study, outcomes: dict[str, JobOutcome]) -> bool:
    """Whether an earlier start has written what this one would."""
    file = study.out / FILE
    written = file.is_file() and (study.out / CLAIMS).is_file()
    return written and next(study.due(outcomes), None) is None and read_study(study.out).seeds == study.seeds


class _Clock:
    """Adds up the time of a study over its starts.

    Args:
        file: where the sum is kept.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._before = read_json_as(file, float) if file.is_file() else 0.0
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._began

    def save(self) -> None:
        write_text(self.file, f"{self.seconds:.1f}\n")

    def __enter__(self) -> _Clock:
        return self

    def __exit__(self, *_: object) -> None:
        self.save()


def _line(study: Study, outcomes: dict[str, JobOutcome], name: str, size: int) -> str:
    """One line when a job is done: what it reached on held-out images, and how long the rest may take."""
    outcome, left = outcomes[name], study.left(outcomes)
    reached = f"{few_shot_mean(outcome['holdout']):.1f} % on held-out images, " if "holdout" in outcome else ""
    seconds = remaining_seconds(list(outcomes.values()), left, size)
    total = len(left) + len(outcomes)
    return f"[{len(outcomes)}/{total}] {name}: {reached}{duration(outcome['seconds'])}; about {duration(seconds)} left"


def remaining_seconds(done: list[JobOutcome], left: list[float], size: int) -> float:
    """How long the jobs that are left may take: seconds of a job = a + b * its operations, by least squares.

    Args:
        done: outcomes with `seconds` and `flops`.
        left: operations of each job that is left.
        size: how many are done at a time.
    """
    seconds, flops = np.array([o["seconds"] for o in done]), np.array([o["flops"] for o in done])
    if len(set(flops.tolist())) > 1:
        slope, base = np.polyfit(flops, seconds, 1)
        if slope > 0 and base > 0:
            return float(sum(base + slope * operations for operations in left)) / size
    return float(seconds.mean()) * len(left) / size


def _jobs() -> int:
    import torch

    return 1 if torch.cuda.is_available() else available_cores()


def _machine() -> dict[str, Any]:
    """The machine as a job sees it."""
    import torch

    return machine() | ({} if torch.cuda.is_available() else {"threads": 1})


def _commit() -> str | None:
    """The commit of the package, where it runs from a checkout."""
    root = Path(__file__).parents[3]
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    if not (root / ".git").exists():  # perhaps installed below a checkout of something else
        return None
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - fixed words
    except (OSError, subprocess.CalledProcessError):
        return None
