"""What was watched while training: a chart of the loss for each stage, and one of each other number over the run."""

from __future__ import annotations

from typing import Any

from layergraft.runs.figure import ChartRows, Figure, field, tooltip
from layergraft.runs.report.run_files import RunFiles
from layergraft.runs.report.section import Section

# Name in the metrics -> title, caption, axis, format.
CURVES = {
    "knn": (
        "Nearest neighbours while training",
        "Held-out images named by their neighbours among a part of the training images.",
        "named rightly (%)",
        ".1f",
    ),
    "ridge": (
        "Linear classifier while training",
        "Held-out images named by a ridge regression that was fitted to training images.",
        "named rightly (%)",
        ".1f",
    ),
    "guard_five_shot": (
        "What the guard measures: 5-shot",
        "Held-out images named by a ridge regression on five labels a class; the guard keeps the best point.",
        "named rightly (%)",
        ".1f",
    ),
    "guard_agreement": (
        "What the guard measures: agreement with the start",
        "Part of held-out images' nearest neighbours that the stage's start finds as well, before it is drawn back.",
        "neighbours shared",
        ".2f",
    ),
    "rankme": (
        "Directions in use",
        "RankMe: in how many directions held-out features vary; a fall towards 1 is collapse.",
        "directions",
        ".1f",
    ),
    "lr": ("Learning rate", "That of the fastest layer.", "learning rate", ".2e"),
    "images_per_second": ("Speed", "Training images, over all processes.", "images a second", ".0f"),
}
_LOSSES = {
    "mae": "Mean squared error of the masked patches",
    "moco": "Contrastive loss: cross-entropy of finding the other view of the same image",
    "simclr": "Contrastive loss: cross-entropy of finding the other view of the same image",
}


def _rows(runs: list[RunFiles], value: str) -> ChartRows:
    """One number of all metrics, with its step in the run and in its stage."""
    data: ChartRows = []
    for run in runs:
        before, last, offset = 0, "", 0
        for row in run.metrics:
            if row["stage"] != last:
                offset, last = before, row["stage"]
            before = offset + row["step"]
            if value in row:
                facts = {"run": run.name, "step": before, "stage": row["stage"], "step of the stage": row["step"]}
                data.append(facts | {value: row[value]})
    return data


def _colour(name: str, data: ChartRows) -> dict[str, Any]:
    """A colour for each value of a field; the legend only where there is more than one."""
    several = len({row[name] for row in data}) > 1
    return field(name, "nominal", sort=None, legend={"title": None} if several else None)


def loss_figures(runs: list[RunFiles]) -> list[Figure]:
    """The loss of each stage in a chart of its own: those of different objectives cannot be compared."""
    data = _rows(runs, "loss")
    objectives = {stage["name"]: stage["objective"] for run in runs for stage in run.stages}
    figures = []
    for name in dict.fromkeys(row["stage"] for row in data):
        own = [
            {"run": row["run"], "step": row["step of the stage"], "loss": row["loss"]}
            for row in data
            if row["stage"] == name
        ]
        what = _LOSSES.get(objectives.get(name, ""), "Training loss")
        encoding = {
            "x": field("step", "quantitative", "step of the stage"),
            "y": field("loss", "quantitative", scale={"zero": False}),
            "color": _colour("run", own),
            "tooltip": tooltip("run", "step", loss=".3f") if len(runs) > 1 else tooltip("step", loss=".3f"),
        }
        mark = {"type": "line", "point": len(own) < 60}
        figures.append(
            Figure(
                name=f"loss-{name}",
                title=f"Loss of {name}",
                caption=f"{what}. Losses of other stages are on other scales.",
                data=own,
                spec={"mark": mark, "encoding": encoding},
                height=220,
            )
        )
    return figures


LR_AXIS = {"labelExpr": "datum.value ? format(datum.value, '~e') : '0'"}


def curve_figure(runs: list[RunFiles], value: str) -> Figure | None:
    """One number of the metrics over the run's steps, coloured by stage, or by run where there are several."""
    title, caption, unit, shown = CURVES[value]
    keys = ("run", "step", "stage", value)
    data = [{key: row[key] for key in keys} for row in _rows(runs, value)]
    if not data:
        return None
    encoding = {
        "x": field("step", "quantitative", "step of the run"),
        "y": field(value, "quantitative", unit, scale={"zero": False}, axis=LR_AXIS if value == "lr" else {}),
        "color": _colour("stage", data),
        "tooltip": tooltip("stage", "step", **{value: shown}),
    }
    if len(runs) > 1:
        legend = {"title": None, "symbolType": "stroke", "symbolSize": 400}
        encoding |= {"color": _colour("run", data), "strokeDash": field("stage", "nominal", sort=None, legend=legend)}
        encoding["tooltip"] = tooltip("run", "stage", "step", **{value: shown})
    mark = {"type": "line", "point": len(data) < 60}
    return Figure(
        name=value, title=title, caption=caption, data=data, spec={"mark": mark, "encoding": encoding}, height=220
    )


def curves(runs: list[RunFiles]) -> Section | None:
    """A chart for each watched number."""
    watched = [figure for value in CURVES if (figure := curve_figure(runs, value)) is not None]
    figures = [*loss_figures(runs), *watched]
    return Section(name="training", title="While it trained", short="Training", blocks=[*figures]) if figures else None
