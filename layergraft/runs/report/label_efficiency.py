"""Accuracy over the number of labels, a figure for each protocol that learns from few."""

from __future__ import annotations

import json
from typing import Any

from layergraft.runs.figure import Figure, field, tooltip
from layergraft.runs.result_tables import ResultGroup, measured
from layergraft.runs.results import CROSS_VALIDATION

_TITLES = {
    ("logistic", "published"): "logistic regression, published penalty",
    ("logistic", "cv"): "logistic regression, penalty by folds over the shots",
    ("logistic", "holdout"): "logistic regression, penalty by held-out images",
    ("logistic", "label_free"): "logistic regression, penalty by views of single images, without labels",
    ("ridge", "holdout"): "ridge regression, penalty by held-out images",
    ("ridge", "cv"): "ridge regression, penalty by folds over the shots",
    ("ridge", "label_free"): "ridge regression, penalty by views of single images, without labels",
    ("prototype", None): "nearest class mean",
}


def label_efficiency(group: ResultGroup, number: int = 0) -> list[Figure]:
    """Make one figure for each protocol and variant.

    Args:
        group: rows that were measured on the same images.
        number: of the group in the page; tells the figures of several apart.
    """
    if group.test == CROSS_VALIDATION:
        return []  # one number of labels makes no curve
    figures = (_figure(group, number, protocol, variant, title) for (protocol, variant), title in _TITLES.items())
    return [figure for figure in figures if figure is not None]


def _a_class(shots: str) -> str:
    return f"{shots[:-1]} %" if shots.endswith("%") else f"{shots} a class"


def _figure(group: ResultGroup, number: int, protocol: str, variant: str | None, title: str) -> Figure | None:
    wanted = [(name, row) for name, row in group.results if (row.protocol, row.variant) == (protocol, variant)]
    data: list[dict[str, Any]] = [
        {
            "encoder": one.name,
            "shots": one.row.shots,
            "labels": one.row.n_train,
            "top1": one.row.value,
            "std": one.std,
            "low": one.row.low,
            "high": one.row.high,
        }
        for one in measured(wanted)
        if one.row.split == "mean"
    ]
    if not data:
        return None
    data.sort(key=lambda point: point["labels"])
    each = {str(point["labels"]): _a_class(point["shots"]) for point in data}
    axis = {"values": sorted({point["labels"] for point in data}), "labelOverlap": "greedy"}
    axis["labelExpr"] = f"[format(datum.value, ','), ({json.dumps(each)})[datum.value]]"
    x = field("labels", "quantitative", "labelled images", scale={"type": "log", "nice": False}, axis=axis)
    low = field("low", "quantitative", "named rightly (%)", scale={"zero": False})
    floor = {"condition": {"test": "test(/(^|: )(pixels|random)(, seed \\d+)?$/, datum.encoder)", "value": [4, 4]}}
    top1 = field("top1", "quantitative", "named rightly (%)")
    details = tooltip("encoder", "shots", labels=",", top1=".1f", std=".1f", low=".1f", high=".1f")
    # The chart that every run has keeps its short name, so that links to it stay valid.
    name = "few-shot" if variant == "published" else "-".join(filter(None, ("few-shot", protocol, variant)))
    return Figure(
        name=f"{name}-{number}" if number else name,
        title=f"Accuracy over labelled images: {title}",
        caption="Mean over random choices of the labels, band: 95 % interval. Dashed: what an encoder has to beat, raw "
        f"pixels and random weights. {group.caption}. {group.warning}".rstrip(),
        data=data,
        spec={
            "encoding": {"x": x, "color": field("encoder", "nominal", sort=None, legend={"title": None})},
            "layer": [
                {"mark": {"type": "area", "opacity": 0.13}, "encoding": {"y": low, "y2": {"field": "high"}}},
                {
                    "mark": {"type": "line", "strokeWidth": 2.2},
                    "encoding": {"y": top1, "strokeDash": {"value": [1, 0], **floor}},
                },
                {
                    "mark": {"type": "point", "filled": True, "size": 60},
                    "encoding": {"y": top1, "tooltip": details},
                },
            ],
        },
        wide=True,
    )
