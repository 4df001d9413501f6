"""A PDF of each figure of a page, for a paper: the same Vega-Lite, drawn by vl-convert without browser or network."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from layergraft.errors import UserError
from layergraft.runs.atomic import write_bytes, writing
from layergraft.runs.figure import Figure
from layergraft.runs.interruption import check
from layergraft.runs.readable import slug

VERSION = "6.4"  # of Vega-Lite, the page's
WIDTH, WIDE, HEIGHT = 430, 900, 300  # pixels, as the page has them on a desk; a pixel is 0.75 points
INK, SOFT, LINE = "#1b2330", "#566173", "#dde3ea"  # the page's light colours
CONFIG: dict[str, Any] = {  # as report.js has it
    "background": "white",
    "font": "sans-serif",
    "view": {"stroke": None},
    "range": {
        "category": ["#3d7fd9", "#e0762f", "#2a9d78", "#b45fc9", "#c79a1b", "#d64f63", "#5f8f9e", "#8a6d4b"],
    },
    "axis": {
        "labelColor": SOFT,
        "titleColor": SOFT,
        "gridColor": LINE,
        "domainColor": LINE,
        "tickColor": LINE,
        "titleFontWeight": 500,
        "labelLimit": 140,
    },
    "legend": {
        "labelColor": INK,
        "titleColor": SOFT,
        "orient": "top",
        "direction": "horizontal",
        "titleFontWeight": 500,
        "labelLimit": 220,
        "labelFontSize": 12,
        "symbolOpacity": 1,
        "symbolStrokeColor": SOFT,  # Vega-Lite leaves the samples of dashes without a colour
    },
    "numberFormat": ",.6~r",
    "text": {"color": INK, "fill": INK},
    "rule": {"color": SOFT},
    "title": {"color": INK},
}


def complete_spec(figure: Figure) -> dict[str, Any]:
    """The figure's Vega-Lite with its numbers, size and colours: what stands alone in any program that draws it."""
    width = WIDE if figure.wide else WIDTH
    height = figure.height or (round(width * figure.ratio) if figure.ratio else HEIGHT)
    called = figure.spec.get("encoding", {}).get("color", {}).get("field")
    longest = max((len(str(row.get(called) or "")) for row in figure.data), default=0)
    room = max(130.0, min(250.0, 30 + 6.5 * longest))  # pixels of a name in the legend
    legend = CONFIG["legend"] | {"columns": max(1, int(width / room))}
    return {
        **figure.spec,
        "data": {"values": figure.data},
        "width": width,
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
        "config": {**CONFIG, "legend": legend, **figure.spec.get("config", {})},
    }


def write_pdfs(figures: Iterable[Figure], directory: Path) -> list[Path]:
    """One PDF a figure, called as its download in the page is.

    Args:
        figures: of a page.
        directory: new or empty.

    Returns:
        The files.

    Raises:
        UserError: the directory holds something, or vl-convert is not installed.
    """
    convert = load_converter(directory)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    files = []
    for figure in figures:
        check()
        files.append(directory / f"{slug(figure.name)}.pdf")
        draw_pdf(figure, files[-1], convert)
    return files


def draw_pdf(figure: Figure, out: Path, convert: Any) -> None:
    """Write one figure as PDF.

    Args:
        figure: of a page.
        out: the file.
        convert: the module vl_convert.
    """
    write_bytes(out, convert.vegalite_to_pdf(complete_spec(figure), vl_version=VERSION))


def load_converter(directory: Path) -> Any:
    """vl-convert, which is asked for before a page is made.

    Args:
        directory: where the files shall go.

    Raises:
        UserError: as `write_pdfs`.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{str(directory)!r} is not an empty directory.", "Give --figures another one.")
    try:
        import vl_convert
    except ImportError as error:
        raise UserError("PDF files of figures need vl-convert.", "pip install 'layergraft[figures]'") from error
    return vl_convert
