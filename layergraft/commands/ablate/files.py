"""What an ablation leaves: its statistics, its page, a table for LaTeX and a figure as PDF."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from layergraft.commands.ablate.outcome import FILE, AblationOutcome, MeasuredAblation, make_outcome, read_outcome
from layergraft.commands.ablate.page import write_ablation_page
from layergraft.commands.study.formatting import MEAN
from layergraft.commands.study.paper import write_pdf, write_table
from layergraft.commands.study.study_file import FILE as STUDY
from layergraft.commands.study.study_file import read_study
from layergraft.commands.study.tables import accuracy_table
from layergraft.runs.atomic import write_text
from layergraft.runs.notebook import data_frame, html_table

PAGE, TABLE, FIGURE = "report.html", "table.tex", "figure.pdf"
COLUMNS = ("arm", "title", "budget", "column", "mean", "low", "high", "seeds", "diverged")
DIFFERENCE = ("difference", "difference_low", "difference_high", "p", "p_holm", "power", "seeds_needed")


@dataclass(frozen=True, kw_only=True)
class AblationFiles:
    """The files of an ablation.

    Args:
        out: its directory.
        study: `study.json`: what was trained and measured.
        outcome: `outcome.json`: what is said about it.
        report: `report.html`.
        table: `table.tex`, for LaTeX with booktabs.
        figure: `figure.pdf`; None where the extra `figures` is not installed.
    """

    out: Path
    study: Path
    outcome: Path
    report: Path
    table: Path
    figure: Path | None

    @classmethod
    def of(cls, out: Path) -> AblationFiles:
        """The files of a directory."""
        figure = out / FIGURE
        return cls(
            out=out,
            study=out / STUDY,
            outcome=out / FILE,
            report=out / PAGE,
            table=out / TABLE,
            figure=figure if figure.is_file() else None,
        )

    def measured(self) -> AblationOutcome:
        """Read accuracies and differences."""
        return read_outcome(self.outcome)

    def frame(self) -> Any:
        """A data frame of pandas: a row for every arm and column, with its difference from the reference.

        Raises:
            UserError: pandas is not installed.
        """
        outcome = self.measured()
        rows: list[list[object]] = []
        for budget in outcome.study.budgets:
            differences = {(row.arm, row.column): row.difference for row in outcome.differences if row.budget == budget}
            for arm in outcome.study.taking_part(budget):
                for accuracy in (row for row in outcome.accuracies if row.arm == arm.name):
                    test, mean = differences.get((arm.name, accuracy.column)), accuracy.accuracy
                    row = [arm.base, arm.title, budget, accuracy.column, mean.mean, mean.low, mean.high]
                    against = [None] * 7 if test is None else [test.mean, test.low, test.high]
                    against += [] if test is None else [test.p, test.p_holm, test.power, test.seeds_needed]
                    rows.append([*row, len(mean.seeds), len(arm.diverged), *against])
                if arm.diverged and not arm.seeds:
                    row = [arm.base, arm.title, budget, MEAN, None, None, None]
                    rows.append([*row, 0, len(arm.diverged), *[None] * len(DIFFERENCE)])
        return data_frame([*COLUMNS, *DIFFERENCE], rows)

    def _repr_html_(self) -> str:
        outcome = self.measured()
        tables = [accuracy_table(outcome, budget) for budget in outcome.study.budgets]
        return "".join(html_table(table.title, table.columns, table.rows) for table in tables)


def write_outcome(study: MeasuredAblation, out: Path, page: Path | None = None, figures: Path | None = None) -> Path:
    """Write everything that follows from study.json.

    Args:
        study: what was measured.
        out: directory of the files.
        page: the page's file, where it is to be another.
        figures: see `runs.report.page.write_page`.

    Returns:
        The page's path.
    """
    outcome = make_outcome(study)
    write_text(out / FILE, msgspec.json.format(msgspec.json.encode(outcome), indent=1).decode() + "\n")
    write_table(outcome, study.budgets[0], out / TABLE)
    write_pdf(outcome, study.budgets[0], out / FIGURE)
    return write_ablation_page(outcome, page or out / PAGE, figures)


def report_ablation(directory: Path, page: Path | None, figures: Path | None = None) -> Path:
    """Make the outcome of a study again from its study.json.

    Args:
        directory: of the study.
        page: its page; None is report.html in the directory.
        figures: see `runs.report.page.write_page`.

    Raises:
        UserError: the file is damaged.
    """
    return write_outcome(read_study(directory, MeasuredAblation), directory, page, figures)
