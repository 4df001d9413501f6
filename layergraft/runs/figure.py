"""A figure is data and a small Vega-Lite specification; the page draws it, its numbers are the CSV."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

ChartRows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart or a gallery of the report: its numbers and how they are drawn.

    Args:
        name: identifies it in the page and names its downloads.
        title: headline.
        caption: what to see in it, as a sentence.
        data: the numbers, one flat object each; an `image` field holds a picture as a data address.
        spec: Vega-Lite, without data and width.
        ratio: height over width; None takes the page's own height.
        height: in pixels, where the content asks for it; None leaves it to the ratio.
        wide: whether it takes a whole row of the page.
    """

    name: str
    title: str
    caption: str
    data: ChartRows
    spec: dict[str, Any]
    ratio: float | None = None
    height: int | None = None
    wide: bool = False

    kind: ClassVar[str] = "figure"


def field(name: str, kind: str, title: str | None = None, **more: Any) -> dict[str, Any]:
    """One channel of an encoding: `field("step", "quantitative")`."""
    return {"field": name, "type": kind, "title": title or name, **more}


def tooltip(*fields: str, **formats: str) -> list[dict[str, Any]]:
    """What is shown where the pointer is: names as they are, numbers in a format (`top1=".1f"`)."""
    return [field(name, "nominal") for name in fields] + [
        field(name, "quantitative", format=text) for name, text in formats.items()
    ]
