"""Every analysis in analysis.json, in three sections: the two losses, the layers, and what the encoder sees."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable
from dataclasses import replace

from layergraft.config.analysis import AnalysisName
from layergraft.runs.figure import Figure
from layergraft.runs.report.run_files import RunFiles
from layergraft.runs.report.section import Code, Notes, Section

PICTURES = ("reconstruct", "neighbours", "attention-maps", "saliency", "pca", "map")
LOSSES = ("conflict", "suggest")
LAYERS = tuple(name for name in typing.get_args(AnalysisName) if name not in (*PICTURES, *LOSSES))


def _section(
    name: str, title: str, intro: str, analyses: tuple[str, ...]
) -> Callable[[list[RunFiles]], Section | None]:
    def build(runs: list[RunFiles]) -> Section | None:
        entries = [(run, entry) for run in runs for entry in run.analyses if entry.analysis in analyses]
        entries.sort(key=lambda pair: analyses.index(pair[1].analysis))
        several = len({(run.name, entry.encoder) for run, entry in entries}) > 1
        blocks: list[Figure | Notes | Code] = []
        notes: list[str] = []
        for number, (run, entry) in enumerate(entries):
            encoder = entry.encoder if len(runs) == 1 else f"{run.name}: {entry.encoder}"
            for figure in entry.figures:
                shown = f"{figure.title} · {encoder}" if several else figure.title
                anchor = re.sub(r"[^\w-]+", "-", f"{figure.name}-{encoder}")
                blocks.append(replace(figure, name=f"{anchor}-{number}", title=shown))
            if entry.snippet:
                blocks.append(
                    Code(title=f"{entry.analysis} ({encoder}): copy it into a stage of a recipe", text=entry.snippet)
                )
            label = f"{entry.analysis} ({encoder})" if several else entry.analysis
            notes += [f"{label}: {note}" for note in entry.notes]
        if not blocks:
            return None
        return Section(name=name, title=title, intro=intro, blocks=[*blocks, *([Notes(lines=notes)] if notes else [])])

    return build


losses = _section(
    "losses",
    "Do the two losses fight?",
    "Masked image modelling and contrast pull on the same weights. Where their gradients point apart, a block cannot "
    "serve both: the reason to let layers move at their own speed.",
    LOSSES,
)
layers = _section("layers", "Layer by layer", "How what the encoder holds changes from input to output.", LAYERS)
pictures = _section(
    "pictures",
    "What it sees",
    "The same encoder in pictures, on images that trained nothing where the run knows them.",
    PICTURES,
)
