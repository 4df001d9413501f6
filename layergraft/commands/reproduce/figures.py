"""What is measured of the conflict, as charts."""

from __future__ import annotations

from layergraft.analysis.charts import LAYER_AXIS
from layergraft.commands.reproduce.outcome import Claims
from layergraft.commands.study.figures import INTERVAL, ends
from layergraft.commands.study.statistics import Interval
from layergraft.runs.figure import ChartRows, Figure, field, tooltip


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
        data.append({"block": block, "seed": "mean", "value": interval.mean, **ends(interval)})
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
