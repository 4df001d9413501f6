"""Every analysis in analysis.json, under the heading of its kind."""

from __future__ import annotations

import re
import typing
from dataclasses import replace

from layergraft.config.analysis import AnalysisName
from layergraft.report.figure import Figure
from layergraft.report.run_files import RunFiles
from layergraft.report.section import Code, Notes, Section


def analyses(runs: list[RunFiles]) -> Section | None:
    """Figures of all entries, those of one kind together, with what has to be known to read them."""
    order = [*typing.get_args(AnalysisName)]
    entries = [(run, entry) for run in runs for entry in run.analyses]
    entries.sort(key=lambda pair: order.index(pair[1].analysis))
    blocks: list[Figure | Notes | Code] = []
    several = len({(run.name, entry.encoder) for run, entry in entries}) > 1
    for number, (run, entry) in enumerate(entries):
        own = entry.encoder if len(runs) == 1 else f"{run.name}: {entry.encoder}"
        for figure in entry.figures:
            title = f"{figure.title} · {own}" if several else figure.title
            name = re.sub(r"[^\w-]+", "-", f"{figure.name}-{own}")
            blocks.append(replace(figure, name=f"{name}-{number}", title=title))
        if entry.snippet:
            blocks.append(Code(title=f"{entry.analysis} ({own}), to copy into a stage of a recipe", text=entry.snippet))
        if entry.notes:
            blocks.append(Notes(lines=[f"{entry.analysis} ({own}): {note}" for note in entry.notes]))
    if not blocks:
        return None
    return Section(name="analyses", title="Inside the encoder", blocks=[*blocks])
