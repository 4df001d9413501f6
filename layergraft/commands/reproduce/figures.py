"""The outcome as charts."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from layergraft.analysis.charts import LAYER_AXIS
from layergraft.commands.reproduce.formatting import AT, MEAN, column_name, p_value
from layergraft.commands.reproduce.outcome import Claims
from layergraft.commands.reproduce.statistics import Interval
from layergraft.commands.reproduce.study_file import Budget, MeasuredArm
from layergraft.commands.reproduce.tables import shown_apart, title_of
from layergraft.config.check import dotted_text
from layergraft.runs.figure import ChartRows, Figure, field, tooltip

INTERVAL = {"transform": [{"filter": "isValid(datum.low)"}]}
ZERO = {
    "mark": {"type": "rule", "strokeDash": [4, 4]},
    "encoding": {"x": {"datum": 0}, "y": {"value": 0}, "y2": {"value": "height"}},
}


def _arm_axis(titles: list[str]) -> dict[str, Any]:
    """Arms from top to bottom; long titles take two lines."""
    lines = {title: textwrap.wrap(title, 26) for title in titles}
    text = f"({json.dumps(lines)})[datum.label]"
    axis = {"labelExpr": text, "labelLimit": 170, "labelPadding": 8, "ticks": False, "grid": True}
    return {"field": "arm", "type": "nominal", "title": None, "sort": None, "axis": axis}


def _ends(interval: Interval) -> dict[str, float | None]:
    return {"low": interval.low, "high": interval.high}


def differences_figure(claims: Claims, budget: Budget) -> Figure | None:
    """The chosen graft minus every other arm, at each number of shots."""
    shots = claims.study.few_shots
    data: ChartRows = [
        {
            "arm": title_of(claims, row.against),
            "shots": row.column,
            "difference": row.difference.mean,
            **_ends(row.difference),
            "p": p_value(row.difference.p),
            "p (Holm)": p_value(row.difference.p_holm),
            "seeds": len(row.difference.seeds),
        }
        for row in claims.differences
        if row.budget == budget and row.column in shots
    ]
    if not data:
        return None
    named = {row["arm"] for row in data}
    titles = [arm.title for arm in claims.study.taking_part(budget) if arm.title in named]
    data.sort(key=lambda row: (titles.index(row["arm"]), shots.index(row["shots"])))
    x = field("difference", "quantitative", "points that the graft is ahead", axis={"tickCount": 8})
    details = tooltip("arm", "shots", "p", "p (Holm)", "seeds", difference="+.2f", low="+.2f", high="+.2f")
    graft = next(row.graft for row in claims.differences if row.budget == budget)
    return Figure(
        name=f"differences-{budget}",
        title=f"{title_of(claims, graft)}, minus each other arm, {AT[budget]}",
        caption="Paired by pre-training seed, with 95 % intervals. Right of 0 the chosen graft is ahead; p (Holm) is "
        "corrected for all arms at the same number of shots.",
        data=data,
        spec={
            "encoding": {
                "y": _arm_axis(titles),
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
        height=70 + 42 * len(titles),
        wide=True,
    )


def compute_figure(claims: Claims) -> Figure:
    """Accuracy over floating-point operations."""
    study = claims.study
    chosen = next(arm for arm in study.arms if arm.name == study.chosen_graft)
    named = {arm.name: arm.title for arm in study.arms if arm.name in chosen.parents} | {chosen.name: chosen.title}

    def kind(arm: MeasuredArm) -> str:
        return named.get(arm.base, "other arm") if arm.flops > 0 else "untrained"

    data: ChartRows = []
    for arm in study.arms:
        mean = claims.accuracy(arm.name, MEAN)
        if mean is not None:
            rest = {
                column_name(column): accuracy.mean
                for column in study.columns
                if (accuracy := claims.accuracy(arm.name, column)) is not None
            }
            start = {"arm": shown_apart(claims, arm), "kind": kind(arm), "family": arm.base, "TFLOP": arm.flops / 1e12}
            data.append(start | {"top-1": mean.mean, **_ends(mean)} | rest)
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
        caption="Mean over 1, 5, … shots with the 95 % interval over seeds. A line joins an arm at equal contrastive "
        "epochs with itself at equal compute. Dashed: untrained.",
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


def conflict_figures(claims: Claims) -> list[Figure]:
    """Share of images in conflict, and mean cosine, by block: a line per seed, and their mean."""
    if not claims.conflict:
        return []
    return [
        _by_block(
            "conflict-share",
            "Images in conflict, by depth",
            "Share of images whose two gradients have a negative cosine in the multi-task network. Thin: a seed; "
            "thick: their mean with the 95 % interval. Dashed: one half, as of unrelated gradients.",
            "images in conflict (%)",
            50.0,
            {str(conflict.block): conflict.negative for conflict in claims.conflict},
        ),
        _by_block(
            "conflict-cosine",
            "Cosine of the two gradients, by depth",
            "Mean over images, in the same network. Below 0 the losses pull apart.",
            "mean cosine",
            0.0,
            {str(conflict.block): conflict.cosine for conflict in claims.conflict},
        ),
    ]


def _by_block(name: str, title: str, caption: str, label: str, line: float, blocks: dict[str, Interval]) -> Figure:
    data: ChartRows = []
    for block, interval in blocks.items():
        data += [
            {"block": block, "seed": str(seed), "value": value, "low": None, "high": None}
            for seed, value in zip(interval.seeds, interval.values, strict=True)
        ]
        data.append({"block": block, "seed": "mean", "value": interval.mean, **_ends(interval)})
    y = field("value", "quantitative", label, scale={"zero": False})
    mean = [{"filter": "datum.seed === 'mean'"}]
    return Figure(
        name=name,
        title=title,
        caption=caption,
        data=data,
        spec={
            "encoding": {"x": LAYER_AXIS | {"field": "block", "title": "block"}},
            "layer": [
                {
                    "mark": {"type": "rule", "strokeDash": [4, 4]},
                    "encoding": {"y": {"datum": line}, "x": {"value": 0}, "x2": {"value": "width"}},
                },
                {
                    "transform": mean + INTERVAL["transform"],
                    "mark": {"type": "rule", "strokeWidth": 2, "color": "#3d7fd9"},
                    "encoding": {"y": field("low", "quantitative", label), "y2": {"field": "high"}},
                },
                {
                    "transform": [{"filter": "datum.seed !== 'mean'"}],
                    "mark": {
                        "type": "line",
                        "strokeWidth": 1,
                        "opacity": 0.6,
                        "color": "#8a8f98",
                        "point": {"size": 14},
                    },
                    "encoding": {"y": y, "detail": {"field": "seed"}, "tooltip": tooltip("block", "seed", value=".3f")},
                },
                {
                    "transform": mean,
                    "mark": {"type": "line", "strokeWidth": 2.2, "color": "#3d7fd9", "point": {"size": 60}},
                    "encoding": {"y": y, "tooltip": tooltip("block", value=".3f", low=".3f", high=".3f")},
                },
            ],
        },
    )


def search_figure(claims: Claims) -> Figure | None:
    """Every trial of every arm."""
    value = "held-out accuracy"
    data: ChartRows = [
        {
            "arm": arm.title,
            value: trial.holdout,
            "chosen": "chosen" if trial.chosen else "tried",
            **dotted_text(trial.settings),
        }
        for arm in claims.study.searched
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
        caption="A dot per trial, judged on held-out images; orange is what the arm was then trained with.",
        data=data,
        spec={
            "mark": {"type": "point", "filled": True, "size": 60, "opacity": 0.85},
            "encoding": {
                "y": _arm_axis(titles),
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
