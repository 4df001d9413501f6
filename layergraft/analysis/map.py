"""Images on a plane, near where their features are near: t-SNE (van der Maaten and Hinton, JMLR 2008)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from layergraft.analysis.neighbours import label_of
from layergraft.analysis.subject import NotApplicable, Subject
from layergraft.data.augment import fixed_view
from layergraft.data.thumbnails import address
from layergraft.evaluation.features import Array, center_and_normalize, extract
from layergraft.runs.figure import ChartRows, Figure, field
from layergraft.runs.findings import Findings

# All images of a folder of usual size; more would make the page heavy and t-SNE slow.
IMAGES = 2000
THUMBNAIL = 28
GRID = 26  # cells across the map, each with one picture at most


def embed_plane(features: Array) -> Array:
    """Put features (N, D) on a plane, (N, 2), the same every time.

    Raises:
        NotApplicable: scikit-learn is missing.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise NotApplicable("it needs scikit-learn: pip install 'layergraft[analysis]'") from None
    perplexity = min(30.0, (len(features) - 1) / 3)
    plane = TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(features)
    return np.asarray(plane, dtype=np.float32)


def neighbourhood_kept(features: Array, plane: Array, k: int = 10) -> float:
    """Share of the k nearest neighbours that are the same in the plane."""

    def near(points: Array) -> npt.NDArray[np.int64]:
        lengths = (points**2).sum(1)
        squared = lengths[:, None] + lengths[None] - 2 * points @ points.T
        np.fill_diagonal(squared, np.inf)
        return np.argpartition(squared, min(k, len(points) - 1) - 1, axis=1)[:, :k]

    pairs = zip(near(features), near(plane), strict=True)
    return float(np.mean([len(set(a) & set(b)) / k for a, b in pairs]))


def spread(plane: Array, cells: int = GRID) -> npt.NDArray[np.bool_]:
    """Which points may show a picture, so that none covers another: one in each cell of a grid, of shape (N,)."""
    low, size = plane.min(0), np.maximum(np.ptp(plane, axis=0), 1e-9)
    row = np.floor((plane - low) / size * (cells - 1e-6)).astype(np.int64)
    first = np.unique(row[:, 0] * cells + row[:, 1], return_index=True)[1]
    shown = np.zeros(len(plane), dtype=bool)
    shown[first] = True
    return shown


def plane_map(subject: Subject) -> Findings:
    """A point or a picture for each image, coloured by class where there are classes."""
    encoder = subject.encoder
    source = subject.sample(IMAGES)
    if len(source) < 20:
        raise NotApplicable("it needs at least 20 images")
    features = center_and_normalize(extract(encoder, source, "cls"))
    plane = embed_plane(features)
    data: ChartRows = []
    for key, (x, y), shown in zip(source.keys.tolist(), plane, spread(plane), strict=True):
        image = fixed_view(source.images.load(key, encoder.in_chans), encoder.img_size)
        facts = {"label": label_of(source, key)} if source.labels is not None else {"shown": bool(shown)}
        position = {"x": round(float(x), 2), "y": round(float(y), 2)}
        data.append({**position, **facts, "file": source.images.name(key), "image": address(image, THUMBNAIL)})
    kept = neighbourhood_kept(features, plane)
    how = (
        "Each point is an image; its colour is its class. Click a class in the legend to pick it out."
        if source.labels is not None
        else "Pictures of some images; each point is another one."
    )
    which = "All" if len(source) == len(subject.images) else f"{len(source):,} of"
    caption = (
        f"{which} {len(subject.images):,} {subject.shown.lower()}, near ones have near features (t-SNE). {how} Point "
        f"at one to see it. {kept:.0%} of an image's ten nearest neighbours are also near here."
    )
    figure = Figure(
        name="map",
        title="A map of the images",
        caption=caption,
        data=data,
        spec=_coloured() if source.labels is not None else _pictured(),
        ratio=0.62,
        wide=True,
    )
    return Findings(numbers={"images": len(source), "neighbours_kept": kept}, figures=[figure])


def _position() -> dict[str, Any]:
    hidden: dict[str, Any] = {"axis": None, "scale": {"zero": False, "padding": 16}}
    return {"x": field("x", "quantitative", **hidden), "y": field("y", "quantitative", **hidden)}


def _coloured() -> dict[str, Any]:
    """Points in the colours of their classes; a class is picked out in the legend."""
    encoding = _position() | {
        "opacity": {"condition": {"param": "chosen", "value": 0.85}, "value": 0.08},
        "tooltip": [field(name, "nominal") for name in ("image", "label", "file")],
        "color": field("label", "nominal", scale={"scheme": "tableau20"}, legend={"title": None}),
    }
    chosen = {"name": "chosen", "select": {"type": "point", "fields": ["label"]}, "bind": "legend"}
    return {"params": [chosen], "mark": {"type": "circle", "size": 46}, "encoding": encoding}


def _pictured() -> dict[str, Any]:
    """Pictures where there is room, points for the rest."""
    tooltip = {"tooltip": [field(name, "nominal") for name in ("image", "file")]}
    points = {"transform": [{"filter": "!datum.shown"}], "mark": {"type": "circle", "size": 20, "opacity": 0.35}}
    size = {"expr": f"max(10, width / {GRID * 1.25})"}
    pictures = {
        "transform": [{"filter": "datum.shown"}],
        "mark": {"type": "image", "width": size, "height": size},
        "encoding": {"url": {"field": "image", "type": "nominal"}} | tooltip,
    }
    return {"encoding": _position(), "layer": [points | {"encoding": tooltip}, pictures]}
