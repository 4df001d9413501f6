"""Shapes of figures that several analyses share."""

from __future__ import annotations

from typing import Any

from layergraft.runs.figure import ChartRows, Figure, field, tooltip


def by_name(name: str, data: ChartRows) -> dict[str, Any]:
    """A colour per value of a field, with a legend only where there is more than one."""
    alone = len({row[name] for row in data}) == 1
    return field(name, "nominal", sort=None, legend=None if alone else {"title": None})


def columns(data: ChartRows, *names: str) -> ChartRows:
    """ChartRows with these fields alone."""
    return [{name: row[name] for name in names} for row in data]


LAYER_AXIS = field("layer", "ordinal", "layer (embed = input of block 0)", sort=None, axis={"labelAngle": 0})


def by_layer(
    name: str,
    title: str,
    caption: str,
    data: ChartRows,
    value: str,
    *,
    color: str = "encoder",
    label: str | None = None,
    shown: str = ".3f",
    zero: bool = False,
) -> Figure:
    """Lines over the layers.

    Args:
        name: of the figure.
        title: of the figure.
        caption: of the figure.
        data: rows with `layer`, the value, and what tells the lines apart.
        value: which field is drawn.
        color: which field tells the lines apart.
        label: of the vertical axis.
        shown: format of the value.
        zero: whether the axis must hold zero.
    """
    others = [key for key in data[0] if key not in (value, "layer", color)]
    encoding = {
        "x": LAYER_AXIS,
        "y": field(value, "quantitative", label, scale={"zero": zero}),
        "color": by_name(color, data),
        "tooltip": [
            *tooltip("layer", color, **{value: shown}),
            *(field(key, "quantitative", format=".3f") for key in others),
        ],
    }
    if color != "encoder" and len({row.get("encoder") for row in data}) > 1:
        encoding["strokeDash"] = field("encoder", "nominal", sort=None)
        encoding["tooltip"] = [*tooltip("layer", "encoder", color, **{value: shown})]
    mark = {"type": "line", "point": {"size": 55}, "strokeWidth": 2}
    return Figure(name=name, title=title, caption=caption, data=data, spec={"mark": mark, "encoding": encoding})


def heat_map(
    name: str, title: str, caption: str, data: ChartRows, x: str, y: str, value: str, domain: tuple[float, float] | None
) -> Figure:
    """A square of cells, each coloured by a value."""
    scale: dict[str, Any] = {"scheme": "viridis"} | ({"domain": list(domain)} if domain else {})
    encoding = {
        "x": field(x, "ordinal", sort=None, axis={"labelAngle": 0, "labelOverlap": True}),
        "y": field(y, "ordinal", sort=None, scale={"reverse": True}),
        "color": field(value, "quantitative", scale=scale, legend={"gradientLength": 180, "title": None}),
        "tooltip": tooltip(x, y, **{value: ".3f"}),
    }
    spec = {"mark": {"type": "rect"}, "encoding": encoding}
    return Figure(name=name, title=title, caption=caption, data=data, spec=spec)


# Height of a row of pictures beyond the picture itself, in pictures: room for two lines of words below it.
WORDS = 0.42
EDGES = {"same class": "#2a9d78", "other class": "#d64f63"}


def gallery(
    name: str,
    title: str,
    caption: str,
    data: ChartRows,
    *fields: str,
    top: bool = False,
    below: str = "",
    edge: str = "",
) -> Figure:
    """Pictures in rows and columns.

    Args:
        name: of the figure.
        title: of the figure.
        caption: of the figure.
        data: an object per picture: `row` and `column` say where, `image` is its data address.
        fields: what is shown where the pointer is.
        top: whether the columns' names stand above them.
        below: the field that stands below each picture in up to two lines, where there is room for words.
        edge: the field whose value colours the picture's edge: one of `EDGES`, or anything else for none.
    """
    columns, rows = len({d["column"] for d in data}), len({d["row"] for d in data})
    position: dict[str, Any] = {"scale": {"paddingInner": 0.04, "paddingOuter": 0}, "sort": None, "title": None}
    above = {"orient": "top", "labelAngle": 0, "ticks": False, "domain": False} if top else None
    encoding = {
        "x": {"field": "column", "type": "ordinal", "axis": above, **position},
        "y": {"field": "row", "type": "ordinal", "axis": None, **position},
        "url": {"field": "image", "type": "nominal"},
        "tooltip": [{"field": name, "type": "nominal"} for name in fields],
    }
    spec: dict[str, Any] = {"mark": {"type": "image"}, "encoding": encoding}
    if below:
        spec = _with_words(encoding, below, edge)
    # A strip of pictures takes a row of the page; the margin holds the names above.
    ratio = rows / columns * (1 + WORDS if below else 1) + (0.03 if top else 0)
    return Figure(name=name, title=title, caption=caption, data=data, spec=spec, ratio=ratio, wide=columns > 2 * rows)


def _with_words(encoding: dict[str, Any], below: str, edge: str) -> dict[str, Any]:
    """A gallery with a field below each picture, and edges in the colours of another."""
    inner = WORDS / (1 + WORDS)
    rows = encoding["y"] | {"scale": {"paddingInner": inner, "paddingOuter": inner / 2, "align": 0}}
    place = {"x": encoding["x"], "y": rows}
    pictures = encoding | place
    scale = {"domain": list(EDGES), "range": list(EDGES.values())}
    colour = {"field": edge, "type": "nominal", "legend": None, "scale": scale}
    layers: list[dict[str, Any]] = [{"mark": {"type": "image"}, "encoding": pictures}]
    if edge:
        known = {"filter": {"field": edge, "oneOf": list(EDGES)}}
        frame = {"type": "rect", "filled": False, "strokeWidth": 2.5, "tooltip": None}
        layers.append({"transform": [known], "mark": frame, "encoding": place | {"stroke": colour}})
    # On a phone a picture is too small for words: then they are where the pointer is, and in the enlarged figure.
    size = "clamp(bandwidth('x') / 6, 9, 11)"  # 58 pixels each, nine in half of the page
    words: dict[str, Any] = {"type": "text", "baseline": "top", "lineBreak": "\n", "tooltip": None}
    words |= {"fontSize": {"expr": size}, "lineHeight": {"expr": f"1.1 * {size}"}, "limit": {"expr": "bandwidth('x')"}}
    words["opacity"] = {"expr": "bandwidth('x') > 50 ? 1 : 0"}
    under = {"y": rows | {"bandPosition": 1.04}, "text": {"field": below, "type": "nominal"}}
    layers.append({"mark": words, "encoding": place | under})
    return {"layer": layers}
