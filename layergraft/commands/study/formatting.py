"""How numbers and columns are written, in the page, in the documentation and in verdicts."""

from __future__ import annotations

from layergraft.commands.study.statistics import MOST_SEEDS, Effect, Interval
from layergraft.commands.study.study_file import Budget
from layergraft.runs.readable import counted_shots

AT: dict[Budget, str] = {"epochs": "at equal contrastive epochs", "compute": "at equal compute"}
MEAN = "mean"  # the column of the mean over the numbers of images per class
NAMES = {MEAN: "mean of shots", "knn": "kNN", "linear": "linear", "finetune": "fine-tuned"}


def column_name(column: str) -> str:
    """`5` -> `5 shots`."""
    return NAMES.get(column) or counted_shots(column)


def spread(interval: Interval | None, digits: int = 1) -> str:
    """`36.1 ± 0.4`: mean and half of the interval's width; empty where nothing was measured."""
    if interval is None:
        return ""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.{digits}f}"
    return f"{interval.mean:.{digits}f} ± {(interval.high - interval.low) / 2:.{digits}f}"


def signed(interval: Interval, digits: int = 2) -> str:
    """`+10.03 [+9.81, +10.25]`, with a true minus."""
    text = f"{interval.mean:+.{digits}f}"
    if interval.low is not None and interval.high is not None:
        text += f" [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"
    return text.replace("-", "−")


def p_value(p: float | None) -> str:
    """`0.012`, `< 0.001`, or a dash where there was no test."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_values(test: Effect | None) -> list[str]:
    """As it is, and corrected."""
    return ["–", "–"] if test is None else [p_value(test.p), p_value(test.p_holm)]


DECIDE = "seeds to decide"
DECIDE_NOTE = (
    "Seeds to decide: so many seeds find a difference as large and as scattered as the one that was measured with a "
    "power of 80 %, at 5 % shared out over all tests of the table (as Holm asks of the smallest p)."
)


def seeds_text(test: Effect | None) -> str:
    """How many seeds would decide a test: `12`, `> 10,000`, or a dash where that cannot be told."""
    if test is None or test.seeds_needed is None:
        return "–"
    return f"> {MOST_SEEDS:,}" if test.seeds_needed > MOST_SEEDS else f"{test.seeds_needed:,}"
