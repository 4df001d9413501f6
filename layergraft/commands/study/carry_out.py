"""Do what is due until nothing is. Several processes may work in one directory: each job is done by one of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from layergraft.commands.study.clock import Clock
from layergraft.commands.study.jobs import DIVERGED, SEARCH_SEED, JobOutcome, Study, read_outcome
from layergraft.commands.study.pool import PAUSE, Pool
from layergraft.commands.study.remaining import remaining_seconds
from layergraft.commands.study.run_job import forget, job_lock, known_outcome, outcome_file, run_job, start_diverged
from layergraft.commands.study.study_file import few_shot_mean
from layergraft.errors import Stopped, UserError
from layergraft.runs.announce import announce
from layergraft.runs.interruption import SignalGuard
from layergraft.runs.lock import is_held
from layergraft.runs.readable import duration
from layergraft.training.launch import available_cores
from layergraft.training.signals import requeue

Say = Callable[[str], None]
# What a launcher tells the processes of one run; those of a study train alone, each its own jobs.
_LAUNCHER = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"),
    *("SLURM_STEP_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"),
)


@dataclass(frozen=True, kw_only=True)
class CarriedOut:
    """What a study found.

    Args:
        outcomes: of every job.
        seconds: in which at least one process was at it.
        jobs: how many were done now, here or elsewhere.
    """

    outcomes: dict[str, JobOutcome]
    seconds: float
    jobs: int


@contextmanager
def alone() -> Iterator[None]:
    """Around a study: its processes train alone, also where torchrun or srun started several of them.

    A task of Slurm that sees several GPUs takes its own. Where Slurm stopped it, the job goes back into the queue.
    """
    kept = {name: os.environ.pop(name) for name in _LAUNCHER if name in os.environ}
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    local = kept.get("SLURM_LOCALID", kept.get("LOCAL_RANK", ""))
    several = len(seen) > 1 and local.isdigit()
    if several:
        os.environ["CUDA_VISIBLE_DEVICES"] = seen[int(local) % len(seen)]
    stopped: Stopped | None = None
    try:
        yield
    except Stopped as signal:
        stopped = signal
    except UserError as error:
        if kept.get("RANK", "0") != "0":  # the command line speaks for the first one alone, and jobs fail in any
            announce(str(error))
        raise
    finally:
        os.environ.update(kept)
        if several:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(seen)
    if stopped is not None:
        note = requeue() if stopped.requeue else None
        raise Stopped(f"{stopped} {note}") if note else stopped


def default_jobs() -> int:
    """Jobs at a time: one a core, or one on a GPU."""
    import torch

    return 1 if torch.cuda.is_available() else available_cores()


def read_outcomes(study: Study, outcomes: dict[str, JobOutcome]) -> None:
    """Add the outcomes that earlier starts and other processes left, in the order in which they became possible.

    Raises:
        UserError: one is of a job with other settings, or damaged.
    """
    while ready := [job for job in study.due(outcomes) if outcome_file(study.out, job.name).is_file()]:
        for job in ready:
            outcomes[job.name] = known_outcome(job, study.settings, study.out)


def retry_diverged(study: Study, *, removed: bool = False) -> None:
    """Have every stage and seed that diverged done again, and all that rests on it.

    A trial that diverged has said that its rate is too high; one whose start did has said nothing.

    Args:
        study: whose jobs are looked at.
        removed: only those that began and whose directories somebody has removed.
    """
    again: set[str] = set()
    searched_again: set[str] = set()
    for name, kind, number in study.names({}):
        job, arm = f"{name}/{kind}-{number}", study.arm(name)
        file = outcome_file(study.out, job)
        if not file.is_file():
            continue
        start = study.run_of(arm.first, SEARCH_SEED if kind == "trial" else number) if arm.first else None
        diverged = kind != "trial" and DIVERGED in read_outcome(file, kind)
        if removed:  # what has no start to begin from never had a directory
            began = arm.trained and (start is None or start_diverged(start, study.out) is None)
            diverged = diverged and began and not (study.out / "runs" / job).is_dir()
        if diverged or start in again or (kind != "trial" and arm.name in searched_again):
            again.add(job)
            searched_again |= {arm.name} if kind == "trial" else set()
            forget(job, study.out)


def carry_out(study: Study, outcomes: dict[str, JobOutcome], pool: Pool, say: Say) -> CarriedOut:
    """Do every job that is left, beside other processes that do the same; goes on where an earlier start ended.

    Args:
        study: what is to be done.
        outcomes: those that are known; the others are added.
        pool: does them.
        say: called with a line for every job that is done.

    Raises:
        Stopped: a signal came; everything is saved.
        UserError: of a job; the others that ran have saved their state.
    """
    clock, before = Clock(study.out / "times"), len(outcomes)
    with SignalGuard(hold=True) as signals, clock:
        while True:
            elsewhere = _start(study, outcomes, pool)
            if not pool.running and not elsewhere:
                break
            known = set(outcomes)
            for name, outcome in pool.finished(signals, 10 * PAUSE if elsewhere else None):
                if outcome is not None:  # else another process had been quicker
                    outcomes[name] = outcome
            if elsewhere:
                read_outcomes(study, outcomes)
            if len(outcomes) > len(known):
                clock.save()
            for name in outcomes.keys() - known:
                say(_line(study, outcomes, name, pool.size + elsewhere))
    with suppress(OSError):  # another process has a job
        (study.out / "locks").rmdir()
    return CarriedOut(outcomes=outcomes, seconds=clock.seconds, jobs=len(outcomes) - before)


def _start(study: Study, outcomes: dict[str, JobOutcome], pool: Pool) -> int:
    """Start what can be started; returns how many jobs other processes are at."""
    elsewhere = 0
    for job in study.due(outcomes, pool.running):
        if is_held(job_lock(study.out, job.name)):
            elsewhere += 1
        elif pool.free:
            pool.start(job.name, run_job, job, study.settings, study.out)
    return elsewhere


def _line(study: Study, outcomes: dict[str, JobOutcome], name: str, size: int) -> str:
    """One line when a job is done: what it reached on held-out images, and how long the rest may take."""
    outcome, left = outcomes[name], study.left(outcomes)
    reached = f"{few_shot_mean(outcome['holdout']):.1f} % on held-out images, " if "holdout" in outcome else ""
    reached = f"diverged ({outcome[DIVERGED]}), " if DIVERGED in outcome else reached
    seconds = remaining_seconds(list(outcomes.values()), left, size)
    total = len(left) + len(outcomes)
    return f"[{len(outcomes)}/{total}] {name}: {reached}{duration(outcome['seconds'])}; about {duration(seconds)} left"


def check_numbers(seeds: int, jobs: int | None) -> None:
    """Refuse numbers that no study can have.

    Raises:
        UserError: there would be no seed, or no job at a time.
    """
    if seeds < 1:
        raise UserError("There must be at least one seed.", "Give --seeds 5.")
    if jobs is not None and jobs < 1:
        raise UserError("There must be at least one job at a time.", "Give --jobs 2.")
