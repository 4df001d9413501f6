"""Figures as data and a small Vega-Lite specification; the page draws them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from layergraft.evaluation.results import ResultRow

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Args:
    name: identifies it in the page and names its downloads.
    title: headline.
    caption: what to see in it, as a sentence.
    data: the numbers, one flat object each.
    spec: Vega-Lite, without data.
    """

    name: str
    title: str
    caption: str
    data: Rows
    spec: dict[str, Any]


def _field(name: str, kind: str, title: str | None = None, **more: Any) -> dict[str, Any]:
    return {"field": name, "type": kind, "title": title or name, **more}


def few_shot_figure(results: list[ResultRow]) -> Figure | None:
    """Accuracy over labelled images per class, with the standard deviation over splits."""
    wanted = [row for row in results if row.protocol == "logistic" and row.variant == "published"]
    spread = {(row.encoder, row.shots, row.pooling): row.value for row in wanted if row.split == "std"}
    data = []
    for row in wanted:
        if row.split == "mean" and row.pooling in (None, "cls") and not row.shots.endswith("%"):
            std = spread.get((row.encoder, row.shots, row.pooling), 0.0)
            low, high = row.value - std, row.value + std
            data.append({"encoder": row.encoder, "shots": int(row.shots), "top1": row.value, "low": low, "high": high})
    if not data:
        return None
    x = _field(
        "shots",
        "quantitative",
        "labelled images per class",
        scale={"type": "log"},
        axis={"values": sorted({d["shots"] for d in data})},
    )
    color = _field("encoder", "nominal")
    tooltip = [
        _field("encoder", "nominal"),
        _field("shots", "quantitative"),
        _field("top1", "quantitative", format=".1f"),
    ]
    spec = {
        "encoding": {"x": x, "color": color},
        "layer": [
            {
                "mark": {"type": "area", "opacity": 0.15},
                "encoding": {
                    "y": _field("low", "quantitative", "top-1 (%)", scale={"zero": False}),
                    "y2": {"field": "high"},
                },
            },
            {
                "mark": {"type": "line", "point": True},
                "encoding": {"y": _field("top1", "quantitative", "top-1 (%)"), "tooltip": tooltip},
            },
        ],
    }
    return Figure(
        name="few-shot",
        title="How few labels?",
        caption="Frozen features, logistic regression (published protocol): mean over random splits, "
        "band = one standard deviation. The pixels are the floor.",
        data=data,
        spec=spec,
    )


def curve_figure(metrics: Rows, value: str, title: str, caption: str) -> Figure | None:
    """One number of the metrics over the run's steps, coloured by stage."""
    data, before, last = [], 0, ""
    offset = 0
    for row in metrics:
        if row["stage"] != last:
            offset, last = before, row["stage"]
        before = offset + row["step"]
        if value in row:
            data.append({"step": before, "stage": row["stage"], value: row[value]})
    if not data:
        return None
    encoding = {
        "x": _field("step", "quantitative"),
        "y": _field(value, "quantitative", scale={"zero": False}),
        "color": _field("stage", "nominal", sort=None),
        "tooltip": [
            _field("stage", "nominal"),
            _field("step", "quantitative"),
            _field(value, "quantitative", format=".3f"),
        ],
    }
    mark = {"type": "line", "point": len(data) < 60}
    return Figure(name=value, title=title, caption=caption, data=data, spec={"mark": mark, "encoding": encoding})
