"""What was watched while training, over the steps of the run."""

from __future__ import annotations

from typing import Any

from layergraft.runs.figure import Figure, field, tooltip
from layergraft.runs.report.run_files import RunFiles
from layergraft.runs.report.section import Section

CURVES = {
    "loss": ("Training loss", "The objectives differ, so the stages' losses cannot be compared.", ".3f"),
    "knn": ("kNN while training", "On held-out images, neighbours from a part of the training images (%).", ".1f"),
    "ridge": (
        "Ridge regression while training",
        "On held-out images, fitted to training images (%).",
        ".1f",
    ),
    "rankme": ("Rank of the features", "RankMe of held-out features; a drop towards 1 is collapse.", ".1f"),
    "lr": ("Learning rate", "Of the fastest layer.", ".2e"),
    "images_per_second": ("Speed", "Training images a second, over all processes.", ".0f"),
}


def curve_figure(runs: list[RunFiles], value: str) -> Figure | None:
    """One number of the metrics over the run's steps, coloured by stage, or by run where there are several."""
    data: list[dict[str, Any]] = []
    for run in runs:
        before, last, offset = 0, "", 0
        for row in run.metrics:
            if row["stage"] != last:
                offset, last = before, row["stage"]
            before = offset + row["step"]
            if value in row:
                data.append({"run": run.name, "step": before, "stage": row["stage"], value: row[value]})
    if not data:
        return None
    title, caption, shown = CURVES[value]
    encoding = {
        "x": field("step", "quantitative"),
        "y": field(value, "quantitative", scale={"zero": False}),
        "color": field("stage", "nominal", sort=None, legend={"title": None}),
        "tooltip": tooltip("stage", "step", **{value: shown}),
    }
    if len(runs) > 1:
        encoding |= {
            "color": field("run", "nominal", sort=None, legend={"title": None}),
            "strokeDash": field("stage", "nominal", sort=None, legend={"title": None, "symbolType": "stroke"}),
        }
        encoding["tooltip"] = tooltip("run", "stage", "step", **{value: shown})
    mark = {"type": "line", "point": len(data) < 60}
    return Figure(name=value, title=title, caption=caption, data=data, spec={"mark": mark, "encoding": encoding})


def curves(runs: list[RunFiles]) -> Section | None:
    """A chart for each watched number."""
    figures = [figure for value in CURVES if (figure := curve_figure(runs, value)) is not None]
    return Section(name="training", title="While it trained", blocks=[*figures]) if figures else None
