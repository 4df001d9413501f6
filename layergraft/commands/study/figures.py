"""The outcome of a study as charts."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from layergraft.commands.study.formatting import MEAN, column_name, p_value
from layergraft.commands.study.outcome import Outcome
from layergraft.commands.study.statistics import Interval
from layergraft.commands.study.study_file import Budget, MeasuredArm
from layergraft.commands.study.tables import differences_title, shown_apart
from layergraft.config.check import dotted_text
from layergraft.runs.figure import ChartRows, Figure, field, tooltip

INTERVAL = {"transform": [{"filter": "isValid(datum.low)"}]}
ZERO = {
    "data": {"values": [{}]},  # one line, not one for every point
    "mark": {"type": "rule", "strokeDash": [4, 4]},
    "encoding": {
        "x": {"datum": 0},
        "y": {"value": 0},
        "y2": {"value": "height"},
        "yOffset": None,
        "color": {"value": "#8a8f98"},
    },
}


def arm_axis(titles: list[str]) -> dict[str, Any]:
    """Arms from top to bottom; long titles take two lines."""
    lines = {title: textwrap.wrap(title, 26) for title in titles}
    text = f"({json.dumps(lines)})[datum.label]"
    axis = {"labelExpr": text, "labelLimit": 170, "labelPadding": 8, "ticks": False, "grid": True}
    return {"field": "arm", "type": "nominal", "title": None, "sort": None, "axis": axis}


def ends(interval: Interval) -> dict[str, float | None]:
    return {"low": interval.low, "high": interval.high}


def differences_figure(outcome: Outcome, budget: Budget) -> Figure | None:
    """Every difference from the reference, at each number of shots."""
    shots = outcome.measured.few_shots
    data: ChartRows = [
        {
            "arm": outcome.title_of(outcome.other(row)),
            "shots": row.column,
            "difference": row.difference.mean,
            **ends(row.difference),
            "p": p_value(row.difference.p),
            "p (Holm)": p_value(row.difference.p_holm),
            "seeds": len(row.difference.seeds),
        }
        for row in outcome.differences
        if row.budget == budget and row.column in shots
    ]
    if not data:
        return None
    named = {row["arm"] for row in data}
    titles = [arm.title for arm in outcome.measured.taking_part(budget) if arm.title in named]
    data.sort(key=lambda row: (titles.index(row["arm"]), shots.index(row["shots"])))
    x = field("difference", "quantitative", outcome.words.ahead, axis={"tickCount": 8})
    details = tooltip("arm", "shots", "p", "p (Holm)", "seeds", difference="+.2f", low="+.2f", high="+.2f")
    return Figure(
        name=f"differences-{budget}",
        title=f"{differences_title(outcome)}, {outcome.words.at[budget]}",
        caption=f"Paired by pre-training seed, with 95 % intervals. {outcome.words.side}; p (Holm) is "
        "corrected for all arms at the same number of shots.",
        data=data,
        spec={
            "encoding": {
                "y": arm_axis(titles),
                "yOffset": {"field": "shots", "type": "nominal", "sort": shots},
                "color": field("shots", "nominal", sort=shots, legend={"title": "shots"}),
            },
            "layer": [
                {
                    **INTERVAL,
                    "mark": {"type": "rule", "strokeWidth": 2},
                    "encoding": {"x": x | {"field": "low"}, "x2": {"field": "high"}},
                },
                {"mark": {"type": "point", "filled": True, "size": 45}, "encoding": {"x": x, "tooltip": details}},
                ZERO,
            ],
        },
        height=70 + min(42, 18 + 8 * len(shots)) * len(titles),
        wide=True,
    )


def compute_figure(outcome: Outcome) -> Figure:
    """Accuracy over floating-point operations."""
    study, named = outcome.measured, outcome.highlighted

    def kind(arm: MeasuredArm) -> str:
        return named.get(arm.base, "other arm") if arm.flops > 0 else "untrained"

    data: ChartRows = []
    for arm in study.arms:
        mean = outcome.accuracy(arm.name, MEAN)
        if mean is not None:
            rest = {
                column_name(column): accuracy.mean
                for column in study.columns
                if (accuracy := outcome.accuracy(arm.name, column)) is not None
            }
            start = {"arm": shown_apart(outcome, arm), "kind": kind(arm), "family": arm.base, "TFLOP": arm.flops / 1e12}
            data.append(start | {"top-1": mean.mean, **ends(mean)} | rest)
    y = field("top-1", "quantitative", "top-1, mean of the shots (%)", scale={"zero": False})
    x = field("TFLOP", "quantitative", "operations of all stages (TFLOP)", scale={"zero": False}, axis={"tickCount": 8})
    kinds = [*reversed(named.values()), "other arm", "untrained"]
    data.sort(key=lambda row: -kinds.index(row["kind"]))  # what matters most lies on top
    scale = {"domain": kinds, "range": [*("#e0762f", "#2a9d78", "#3d7fd9")[: len(named)], "#8a8f98", "#8a8f98"]}
    color = field("kind", "nominal", sort=kinds, scale=scale, legend={"title": None})
    trained, floor = "datum.kind !== 'untrained'", "datum.kind === 'untrained'"
    return Figure(
        name="compute",
        title="Accuracy over compute",
        caption="Mean over 1, 5, … shots with the 95 % interval over seeds. A line joins an arm "
        f"{outcome.words.at['epochs']} with itself {outcome.words.at['compute']}. Dashed: untrained.",
        data=data,
        spec={
            "encoding": {"color": color},
            "layer": [
                {
                    "transform": [{"filter": floor}],
                    "mark": {"type": "rule", "strokeDash": [4, 4]},
                    "encoding": {"y": y, "tooltip": tooltip("arm", **{"top-1": ".1f"})},
                },
                {
                    "transform": [{"filter": floor}],
                    "mark": {"type": "text", "align": "left", "dx": 4, "dy": -6, "fontSize": 11},
                    "encoding": {"y": y, "x": {"value": 0}, "text": {"field": "arm"}},
                },
                {
                    "transform": [{"filter": trained}],
                    "mark": {"type": "line", "strokeWidth": 1, "opacity": 0.6},
                    "encoding": {"x": x, "y": y, "detail": {"field": "family"}},
                },
                {
                    "transform": [{"filter": trained}, *INTERVAL["transform"]],
                    "mark": {"type": "rule", "strokeWidth": 1.5},
                    "encoding": {"x": x, "y": field("low", "quantitative", y["title"]), "y2": {"field": "high"}},
                },
                {
                    "transform": [{"filter": trained}],
                    "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                    "encoding": {
                        "x": x,
                        "y": y,
                        "tooltip": tooltip("arm", TFLOP=",.4~r", **{"top-1": ".2f", "low": ".2f", "high": ".2f"}),
                    },
                },
            ],
        },
        height=420,
        wide=True,
    )


def shots_figure(outcome: Outcome) -> Figure:
    """Accuracy over the number of labelled images a class, a line for every arm."""
    study = outcome.measured
    data: ChartRows = [
        {"arm": shown_apart(outcome, arm), "shots": int(column), "top-1": mean.mean, **ends(mean)}
        for arm in study.arms
        for column in study.few_shots
        if (mean := outcome.accuracy(arm.name, column)) is not None
    ]
    ticks = [int(column) for column in study.few_shots]
    shown = "labelled images of each class" if study.labelled else "views of each image"
    x = field("shots", "quantitative", shown, scale={"type": "log"}, axis={"values": ticks})
    y = field("top-1", "quantitative", "top-1 (%)", scale={"zero": False})
    return Figure(
        name="shots",
        title="Accuracy over labels" if study.labelled else "Accuracy over views",
        caption="Mean over seeds, with 95 % intervals.",
        data=data,
        spec={
            "encoding": {"x": x, "color": field("arm", "nominal", sort=None, legend={"title": None})},
            "layer": [
                {
                    "mark": {"type": "line", "point": {"size": 30}, "strokeWidth": 1.8},
                    "encoding": {
                        "y": y,
                        "tooltip": tooltip("arm", "shots", **{"top-1": ".2f", "low": ".2f", "high": ".2f"}),
                    },
                },
                {
                    **INTERVAL,
                    "mark": {"type": "rule", "opacity": 0.6},
                    "encoding": {"y": field("low", "quantitative", y["title"]), "y2": {"field": "high"}},
                },
            ],
        },
        height=360,
        wide=True,
    )


def search_figure(outcome: Outcome) -> Figure | None:
    """Every trial of every arm."""
    value = "held-out accuracy"
    data: ChartRows = [
        {
            "arm": arm.title,
            value: trial.holdout,
            "chosen": "chosen" if trial.chosen else "tried",
            **dotted_text(trial.settings),
        }
        for arm in outcome.measured.searched
        for trial in arm.search
    ]
    if not data:
        return None
    titles = list(dict.fromkeys(row["arm"] for row in data))
    settings = list(
        dict.fromkeys(key for row in data for key in row if key not in ("held-out accuracy", "chosen", "arm"))
    )
    x = field(value, "quantitative", "held-out accuracy (%)", scale={"zero": False})
    color = {"domain": ["chosen", "tried"], "range": ["#e0762f", "#8a8f98"]}
    return Figure(
        name="search",
        title="What was tried",
        caption=f"A dot per trial, judged on {outcome.measured.judged}; orange is what the arm was then trained with.",
        data=data,
        spec={
            "mark": {"type": "point", "filled": True, "size": 60, "opacity": 0.85},
            "encoding": {
                "y": arm_axis(titles),
                "x": x,
                "color": field("chosen", "nominal", scale=color, legend={"title": None}),
                "tooltip": [
                    *tooltip("arm", **{value: ".2f"}),
                    *({"field": _escaped(name), "type": "nominal", "title": name} for name in settings),
                ],
            },
        },
        height=60 + 30 * len(titles),
        wide=True,
    )


def _escaped(name: str) -> str:
    """A field whose dots are part of its name."""
    return name.replace(".", "\\.")
