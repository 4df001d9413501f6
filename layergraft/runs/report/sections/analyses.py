"""Every analysis in analysis.json, in three sections: the two losses, the layers, and what the encoder sees."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from layergraft.config.analysis import AnalysisName
from layergraft.runs.findings import Entry
from layergraft.runs.report.run_files import RunFiles
from layergraft.runs.report.section import Code, Notes, Section

PICTURES = ("reconstruct", "neighbours", "attention-maps", "saliency", "pca", "map")
LOSSES = ("conflict", "suggest")
LAYERS = tuple(name for name in typing.get_args(AnalysisName) if name not in (*PICTURES, *LOSSES))


def _section(
    name: str, title: str, short: str, intro: str, analyses: tuple[str, ...], folded: bool = False
) -> Callable[[list[RunFiles]], Section | None]:
    def build(runs: list[RunFiles]) -> Section | None:
        entries = [(run, entry) for run in runs for entry in run.analyses if entry.analysis in analyses]
        entries.sort(key=lambda pair: analyses.index(pair[1].analysis))
        several = len({(run.name, entry.encoder) for run, entry in entries}) > 1
        blocks: list[Any] = []
        notes: list[str] = []
        for number, (run, entry) in enumerate(entries):
            encoder = entry.encoder if len(runs) == 1 else f"{run.name}: {entry.encoder}"
            sentence = _instead(entry)
            if sentence:
                blocks.append(Notes(lines=[sentence]))
            for figure in [] if sentence else entry.figures:
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
        if notes:
            blocks.append(Notes(title="How these were measured", lines=notes))
        return Section(name=name, title=title, short=short, intro=intro, blocks=blocks, folded=folded)

    return build


def _instead(entry: Entry) -> str:
    """What says all that the figures of an analysis would; empty where they say more."""
    scales = entry.numbers.get("lr_scale") if entry.analysis == "suggest" else None
    if not isinstance(scales, list) or len(set(scales)) != 1:
        return ""
    return f"The measured conflict asks for no difference between the blocks: all {len(scales)} move alike."


losses = _section(
    "losses",
    "Do the two losses fight?",
    "Conflict",
    "Masked image modelling and contrast pull on the same weights. Where their gradients point apart, a block cannot "
    "serve both: the reason to let layers move at their own speed.",
    LOSSES,
)
layers = _section(
    "layers",
    "Layer by layer",
    "Layers",
    "How what the encoder holds changes from input to output.",
    LAYERS,
    folded=True,
)
pictures = _section(
    "pictures",
    "What it sees",
    "Pictures",
    "The same encoder in pictures, on images that trained nothing where the run knows them.",
    PICTURES,
)
