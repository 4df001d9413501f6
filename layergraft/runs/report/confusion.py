"""What is mistaken for what, as a square of classes."""

from __future__ import annotations

from collections.abc import Sequence

from layergraft.runs.figure import Figure, field

LARGEST_MATRIX = 60  # classes


def confusion_figure(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Figure:
    """Make a cell for each pair of classes, coloured by its share of the row.

    Args:
        classes: their names.
        counts: images by class and by the class that they were taken for, of shape (C, C).
    """
    data = [
        {
            "class": one,
            "taken for": other,
            "images": int(counts[i][j]),
            "share (%)": round(100 * int(counts[i][j]) / max(1, sum(map(int, counts[i]))), 1),
        }
        for i, one in enumerate(classes)
        for j, other in enumerate(classes)
    ]
    names = [field("class", "nominal"), field("taken for", "nominal")]
    numbers = [field(name, "quantitative") for name in ("images", "share (%)")]
    axes = {
        "x": field("taken for", "nominal", sort=None, axis={"labelAngle": -45}),
        "y": field("class", "nominal", sort=None),
        "tooltip": [*names, *numbers],
    }
    colour = field("share (%)", "quantitative", scale={"scheme": "blues", "domain": [0, 100]}, legend=None)
    text = {
        "text": field("images", "quantitative"),
        "color": {"condition": {"test": "datum['share (%)'] > 50", "value": "white"}, "value": "#1b2330"},
    }
    layers = [
        {"mark": {"type": "rect"}, "encoding": {"color": colour}},
        {"transform": [{"filter": "datum.images > 0"}], "mark": {"type": "text"}, "encoding": text},
    ]
    return Figure(
        name="confusion",
        title="Confusion matrix",
        caption="A row for each class, a column for each class that its images were taken for: how many, coloured by "
        "the share of the row.",
        data=data,
        spec={"encoding": axes, "layer": layers},
        height=max(180, 26 * len(classes) + 90),
        wide=len(classes) > 8,
    )
