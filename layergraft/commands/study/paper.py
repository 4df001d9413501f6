"""The outcome of a study for a paper: a table of LaTeX, and the differences as a figure in PDF."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from layergraft.commands.study.figures import differences_figure
from layergraft.commands.study.formatting import MEAN, column_name, seeds_text
from layergraft.commands.study.outcome import Difference, Outcome
from layergraft.commands.study.statistics import Effect, Interval
from layergraft.commands.study.study_file import Budget
from layergraft.commands.study.tables import seeds_of
from layergraft.runs.atomic import write_text
from layergraft.runs.report.pdf import draw_pdf

_ESCAPED = str.maketrans(
    {**{sign: "\\" + sign for sign in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
     "\\": r"\textbackslash{}", "<": r"$<$", ">": r"$>$", "−": "$-$", "→": r"$\rightarrow$", "±": r"$\pm$"}
)  # fmt: skip


def escaped(text: str) -> str:
    """A text as LaTeX prints it."""
    return text.translate(_ESCAPED)


def write_table(outcome: Outcome, budget: Budget, out: Path) -> None:
    """Write accuracies of all arms, and their differences from the reference, as a table of LaTeX.

    Args:
        outcome: of a study.
        budget: which comparison.
        out: the file.
    """
    study = outcome.measured
    columns = [*study.few_shots, *(column for column in study.columns if not column.isdigit())]
    columns += [MEAN] if len(study.few_shots) > 1 else []  # of one number it is that number again
    differences = {outcome.other(row): row for row in outcome.differences if (row.budget, row.column) == (budget, MEAN)}
    taking_part = study.taking_part(budget)
    best = {
        column: max((mean.mean for arm in taking_part if (mean := outcome.accuracy(arm.name, column))), default=None)
        for column in columns
    }
    lines = []
    for arm in taking_part:
        cells = [_cell(outcome.accuracy(arm.name, column), best[column]) for column in columns]
        title = arm.title + (f" ({seeds_of(arm)} seeds)" if arm.diverged else "")
        lines.append(" & ".join([escaped(title), *cells, *_against(differences.get(arm.name))]) + r" \\")
    trained = [line for line, arm in zip(lines, taking_part, strict=True) if arm.budget is not None]
    floors = [line for line, arm in zip(lines, taking_part, strict=True) if arm.budget is None]
    named = [column_name(column) for column in columns]
    named = named if study.labelled else [name.replace("shot", "view") for name in named]
    head = ["", *map(escaped, named), r"$\Delta$ [95\,\%]", "$p$", "seeds"]
    tests = len(differences)
    content = [
        "% Made by layergraft from study.json; needs \\usepackage{booktabs}.",
        "% " + study.command.replace("\n", " "),
        r"\begin{tabular}{l" + "r" * len(columns) + "rrr}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
        *trained,
        *([r"\midrule", *floors] if floors else []),
        r"\bottomrule",
        r"\end{tabular}",
        *([] if study.labelled else ["% Without labels: single images are recognised by 1, 5, ... views of each."]),
        f"% Top-1 accuracy (%) on {study.tested}: mean +- half of the 95 % interval over {len(study.seeds)}",
        f"% pre-training seeds. Delta: {outcome.words.differences.format(outcome.title_of(outcome.reference))}, "
        "mean of the shots,",
        f"% paired by seed; p: paired t-test, Holm-corrected for {tests} tests; seeds: how many would decide it with a",
        "% power of 80 % if the true difference and spread are those that were measured.",
        *(["% Seeds that diverged are in no mean."] if any(arm.diverged for arm in taking_part) else []),
    ]
    write_text(out, "\n".join(content) + "\n")


def _cell(mean: Interval | None, best: float | None) -> str:
    if mean is None:
        return "--"
    text = f"{mean.mean:.1f}"
    text = rf"\textbf{{{text}}}" if mean.mean == best else text
    if mean.low is None or mean.high is None:
        return text
    return text + rf"\,{{\scriptsize $\pm$\,{(mean.high - mean.low) / 2:.1f}}}"


def _against(row: Difference | None) -> list[str]:
    if row is None:
        return ["--", "--", "--"]
    return [_signed(row.difference), _p(row.difference), escaped(seeds_text(row.difference)).replace("–", "--")]


def _signed(test: Effect) -> str:
    if test.low is None or test.high is None:
        return f"${test.mean:+.1f}$"
    return f"${test.mean:+.1f}$ [${test.low:+.1f}$, ${test.high:+.1f}$]"


def _p(test: Effect) -> str:
    if test.p_holm is None:
        return "--"
    return "$<$0.001" if test.p_holm < 0.001 else f"{test.p_holm:.3f}"


def can_draw() -> bool:
    """Whether figures can be written as PDF."""
    return importlib.util.find_spec("vl_convert") is not None


def write_pdf(outcome: Outcome, budget: Budget, out: Path) -> None:
    """Write the differences from the reference as PDF; nothing without the extra `figures`, or with nothing to show.

    One of an earlier outcome goes in any case.

    Args:
        outcome: of a study.
        budget: which comparison.
        out: the file.
    """
    figure = differences_figure(outcome, budget)
    out.unlink(missing_ok=True)
    if figure is not None and can_draw():
        draw_pdf(figure, out, importlib.import_module("vl_convert"))
