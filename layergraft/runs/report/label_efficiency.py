"""Accuracy over the number of labels, a figure for each protocol that learns from few."""

from __future__ import annotations

from typing import Any

from layergraft.runs.figure import Figure, field, tooltip
from layergraft.runs.results import ResultRow

_TITLES = {
    ("logistic", "published"): "logistic regression, published penalty",
    ("logistic", "cv"): "logistic regression, penalty by folds over the shots",
    ("logistic", "holdout"): "logistic regression, penalty by held-out images",
    ("ridge", "holdout"): "ridge regression, penalty by held-out images",
    ("ridge", "cv"): "ridge regression, penalty by folds over the shots",
    ("prototype", None): "nearest class mean",
}


def label_efficiency(results: list[tuple[str, ResultRow]]) -> list[Figure]:
    """One figure for each protocol and variant.

    Args:
        results: (how the encoder is called, row).
    """
    figures = (_figure(results, protocol, variant, title) for (protocol, variant), title in _TITLES.items())
    return [figure for figure in figures if figure is not None]


def _figure(results: list[tuple[str, ResultRow]], protocol: str, variant: str | None, title: str) -> Figure | None:
    wanted = [(name, row) for name, row in results if (row.protocol, row.variant) == (protocol, variant)]
    spread = {(name, row.shots, row.pooling): row.value for name, row in wanted if row.split == "std"}
    data: list[dict[str, Any]] = []
    for name, row in wanted:
        if row.split == "mean":
            std = spread.get((name, row.shots, row.pooling), 0.0)
            full = name if row.pooling in (None, "cls") else f"{name}, {row.pooling}"
            band = {"low": row.value - std, "high": row.value + std}
            data.append({"encoder": full, "shots": row.shots, "labels": row.n_train, "top1": row.value, **band})
    if not data:
        return None
    data.sort(key=lambda point: point["labels"])
    ticks = sorted({point["labels"] for point in data})
    x = field("labels", "quantitative", "labelled images", scale={"type": "log", "nice": False}, axis={"values": ticks})
    low = field("low", "quantitative", "top-1 (%)", scale={"zero": False})
    floor = {"condition": {"test": "test(/(^|: )(pixels|random)$/, datum.encoder)", "value": [4, 4]}}
    top1 = field("top1", "quantitative", "top-1 (%)")
    details = tooltip("encoder", "shots", labels=",", top1=".1f", low=".1f", high=".1f")
    return Figure(
        name="few-shot" if variant == "published" else "-".join(filter(None, ("few-shot", protocol, variant))),
        title=f"Accuracy over labelled images: {title}",
        caption="Frozen features: mean over random splits, band = one standard deviation. Dashed: the floors, raw "
        "pixels and random weights.",
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
