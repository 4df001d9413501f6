"""What an analysis finds, and analysis.json, which keeps it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layergraft.runs.atomic import write_text
from layergraft.runs.figure import Figure
from layergraft.runs.json_files import read_json_as
from layergraft.runs.notebook import html_table


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What one analysis returns.

    Args:
        numbers: the measured values, small enough to read.
        figures: what the report shows.
        notes: what has to be known to read them: estimators, settings, what was left out.
        snippet: a piece of a recipe that follows from it.
        compares: whether it took the second encoder into account.
    """

    numbers: dict[str, Any]
    figures: list[Figure]
    notes: list[str] = field(default_factory=list)
    snippet: str = ""
    compares: bool = False


@dataclass(frozen=True, kw_only=True, repr=False)
class Entry:
    """One element of analysis.json.

    Args:
        analysis: its name.
        encoder: what was analysed: a stage's name, or the ENC as given.
        against: the encoder it was compared with, or None.
        data: the images' SOURCE.
        seconds: how long it took.
        numbers: as in `Findings`.
        notes: likewise.
        figures: likewise.
        snippet: likewise.
        block: whose feature it is about, where one was chosen.
    """

    analysis: str
    encoder: str
    against: str | None
    data: str
    seconds: float
    numbers: dict[str, Any]
    notes: list[str]
    figures: list[Figure]
    snippet: str
    block: int | None = None

    def __repr__(self) -> str:
        """Without the figures, which hold whole pictures."""
        against = f" against {self.against}" if self.against else ""
        return f"{self.analysis} of {self.encoder}{against}: {', '.join(self.numbers) or 'pictures'}"

    def _repr_html_(self) -> str:
        numbers = [(name, str(value)[:200]) for name, value in self.numbers.items()]
        return html_table(f"{self.analysis} of {self.encoder} ({self.seconds:g} s)", ("", "value"), numbers)

    @property
    def identity(self) -> tuple[object, ...]:
        """What makes two entries the same measurement."""
        return self.analysis, self.encoder, self.against, self.data, self.block


def read_analysis(path: Path) -> list[Entry]:
    """The entries of an analysis.json; none where there is no file.

    Raises:
        UserError: it was not written by this version.
    """
    if not path.exists():
        return []
    return read_json_as(path, list[Entry], "Move it away and run `layergraft analyze` again.")


def write_analysis(path: Path, new: list[Entry]) -> None:
    """Add entries; those with the same identity are replaced."""
    entries = {entry.identity: entry for entry in [*read_analysis(path), *new]}
    # A line an entry: laid out further, json would be written by Python instead of C, all of it after each analysis.
    write_text(path, "[\n" + ",\n".join(json.dumps(entry, default=vars) for entry in entries.values()) + "\n]\n")
