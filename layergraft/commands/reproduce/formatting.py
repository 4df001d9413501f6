"""How numbers and columns are written, in the page, in the documentation and in verdicts."""

from __future__ import annotations

from layergraft.commands.reproduce.statistics import Effect, Interval
from layergraft.commands.reproduce.study_file import Budget

AT: dict[Budget, str] = {"epochs": "at equal contrastive epochs", "compute": "at equal compute"}
MEAN = "mean"  # the column of the mean over the numbers of images per class
NAMES = {MEAN: "mean of shots", "knn": "kNN", "linear": "linear", "finetune": "fine-tuned"}


def column_name(column: str) -> str:
    """`5` -> `5 shots`."""
    if column in NAMES:
        return NAMES[column]
    if column.endswith("%"):
        return f"{column} labels"
    return "1 shot" if column == "1" else f"{column} shots"


def spread(own: Interval | None, digits: int = 1) -> str:
    """`36.1 ± 0.4`: mean and half of the interval's width; empty where nothing was measured."""
    if own is None:
        return ""
    if own.low is None or own.high is None:
        return f"{own.mean:.{digits}f}"
    return f"{own.mean:.{digits}f} ± {(own.high - own.low) / 2:.{digits}f}"


def signed(own: Interval, digits: int = 2) -> str:
    """`+10.03 [+9.81, +10.25]`, with a true minus."""
    text = f"{own.mean:+.{digits}f}"
    if own.low is not None and own.high is not None:
        text += f" [{own.low:+.{digits}f}, {own.high:+.{digits}f}]"
    return text.replace("-", "−")


def p_value(p: float | None) -> str:
    """`0.012`, `< 0.001`, or a dash where there was no test."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_values(own: Effect | None) -> list[str]:
    """As it is, and corrected."""
    return ["–", "–"] if own is None else [p_value(own.p), p_value(own.p_holm)]


def duration(seconds: float) -> str:
    """`1 h 32 min`."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
