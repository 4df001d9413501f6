"""The graft plan of every stage: a row per layer, how it starts and how it moves."""

from __future__ import annotations

from typing import Any

from layergraft.runs.figure import Figure, field, tooltip
from layergraft.runs.readable import counted
from layergraft.runs.report.run_files import RunFiles
from layergraft.runs.report.section import Section, Table


def plan_table(title: str, stage: dict[str, Any]) -> Table:
    """One stage's plan.json as a table."""
    rows = []
    for row in stage["layers"]:
        anchor = "" if row["anchor"] is None else f"{row['anchor']['norm']} {row['anchor']['weight']:g}"
        moves = ["frozen", "", "", ""] if row["frozen"] else [f"{row['lr_scale']:g}", f"{row['lr']:.2e}"]
        moves += [] if row["frozen"] else [f"{row['weight_decay']:g}", f"{row['weight_decay_1d']:g}"]
        rows.append([row["name"], row["source"], *moves, anchor, f"{row['parameters']:,}"])
    return Table(
        title=title,
        columns=["layer", "source", "rate scale", "peak rate", "weight decay", "of vectors", "anchor", "parameters"],
        rows=rows,
        note=f"{stage['objective']}, {counted(stage['epochs'], 'epoch')}, {counted(stage['steps'], 'step')} of "
        f"{counted(stage['batch_size'], 'image')}."
        + (f" {guard['sentence']}" if (guard := stage.get("guard")) else ""),
    )


def rates_figure(runs: list[RunFiles]) -> Figure:
    """Peak learning rate of every layer, a line per stage."""
    data: list[dict[str, Any]] = []
    for run in runs:
        for stage in run.stages:
            name = stage["name"] if len(runs) == 1 else f"{run.name}: {stage['name']}"
            for row in stage["layers"]:
                moves = not row["frozen"]
                data.append(
                    {
                        "stage": name,
                        "layer": row["name"],
                        "peak lr": row["lr"] if moves else None,
                        "moves": "yes" if moves else "frozen",
                        "source": row["source"],
                    }
                )
    encoding = {
        "x": field("layer", "nominal", sort=None, axis={"labelAngle": -40}),
        "y": field("peak lr", "quantitative", "peak learning rate", axis={"format": ".1e"}),
        "color": field("stage", "nominal", sort=None, legend={"title": None}),
        "tooltip": tooltip("stage", "layer", "moves", "source", **{"peak lr": ".2e"}),
    }
    return Figure(
        name="learning-rates",
        title="How fast each layer moves",
        caption="Peak learning rate by layer, from the input (left) to the heads; a gap is a frozen layer.",
        data=data,
        spec={"mark": {"type": "line", "point": {"size": 60}, "interpolate": "step"}, "encoding": encoding},
        wide=True,
    )


def plans(runs: list[RunFiles]) -> Section | None:
    """All tables, and one chart of them."""
    if not any(run.stages for run in runs):
        return None
    tables = [
        plan_table(f"Stage {stage['name']}" if len(runs) == 1 else f"{run.name}, stage {stage['name']}", stage)
        for run in runs
        for stage in run.stages
    ]
    return Section(
        name="plans",
        title="The graft plan",
        short="Plan",
        folded=True,
        intro="One table a stage, a row per layer: where its weights come from and how fast they move.",
        blocks=[rates_figure(runs), *tables],
    )
