"""What a study costs, in lines, before it begins."""

from __future__ import annotations

from layergraft.commands.study.jobs import JobOutcome, Study
from layergraft.commands.study.remaining import SOON, told_seconds
from layergraft.runs.readable import counted, duration


def cost_lines(study: Study, reference: str, outcomes: dict[str, JobOutcome], size: int) -> list[str]:
    """Operations of every arm, and how long what is left may take.

    Args:
        study: what is to be done.
        reference: the arm of which a piece is tried where no job is done yet.
        outcomes: of earlier starts.
        size: how many jobs are done at a time.
    """
    lines = [f"{study.costs.images:,} images of {study.source} train; {counted(len(study.seeds), 'seed')} an arm."]
    for name in study.lengths:
        arm = study.arm(name)
        if not arm.trained:
            continue
        operations = study.costs.total(arm, study.lengths[name]) / 1e12
        start = f", from {study.arms[arm.first].title} ({arm.first})" if arm.first else ""
        kind = "shared stage" if arm.shared else "arm"
        lines.append(
            f"  {kind} {arm.title}{' at equal compute' if name != arm.name else ''}: {operations:,.3g} TFLOP{start}"
        )
    left = study.left(outcomes)
    whole = (
        f"{counted(len(left) + len(outcomes), 'job')}, {counted(len(left), 'job')} left, {sum(left) / 1e12:,.3g} TFLOP"
    )
    if not left:
        return lines
    tried = study.recipe(reference, 0, outcomes) or study.arm_recipe(study.arms[reference], 0, {}, 1.0, 1.0)
    assert tried is not None
    seconds = told_seconds(study, tried, outcomes, size)
    unknown = "over in minutes" if sum(left) < SOON else "how long cannot be told, its stages are too large to be tried"
    at_once = f"with {counted(size, 'job')} at a time"
    told = f"about {duration(seconds)} {at_once}, {size * seconds:,.0f} job-seconds" if seconds else unknown
    return [*lines, f"{whole}: {told}."]
