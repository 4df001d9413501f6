"""Images on a plane, near where their features are near: t-SNE (van der Maaten and Hinton, JMLR 2008)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from layergraft.analysis.neighbours import label_of
from layergraft.analysis.pictures import address
from layergraft.analysis.subject import NotApplicable, Subject
from layergraft.data.augment import fixed_view
from layergraft.evaluation.features import Array, center_and_normalize, extract
from layergraft.runs.figure import ChartRows, Figure, field
from layergraft.runs.findings import Findings

IMAGES, THUMBNAIL = 600, 40


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
        squared = ((points[:, None] - points[None]) ** 2).sum(2)
        np.fill_diagonal(squared, np.inf)
        return np.argsort(squared, axis=1)[:, :k]

    pairs = zip(near(features), near(plane), strict=True)
    return float(np.mean([len(set(a) & set(b)) / k for a, b in pairs]))


def plane_map(subject: Subject) -> Findings:
    """A point per image, coloured by class, with the image where the pointer is."""
    encoder = subject.encoder
    source = subject.sample(IMAGES)
    if len(source) < 20:
        raise NotApplicable("it needs at least 20 images")
    features = center_and_normalize(extract(encoder, source, "cls"))
    plane = embed_plane(features)
    data: ChartRows = []
    for key, (x, y) in zip(source.keys.tolist(), plane, strict=True):
        image = fixed_view(source.images.load(key, encoder.in_chans), encoder.img_size)
        facts = {"label": label_of(source, key)} if source.labels is not None else {}
        position = {"x": round(float(x), 2), "y": round(float(y), 2)}
        data.append({**position, **facts, "file": source.images.name(key), "image": address(image, THUMBNAIL)})
    hidden: dict[str, Any] = {"axis": None, "scale": {"zero": False, "padding": 12}}
    shown = ["image", *(["label"] if source.labels is not None else []), "file"]
    spec: dict[str, Any] = {
        "params": [{"name": "chosen", "select": {"type": "point", "fields": ["label"]}, "bind": "legend"}],
        "mark": {"type": "circle", "size": 46},
        "encoding": {
            "x": field("x", "quantitative", **hidden),
            "y": field("y", "quantitative", **hidden),
            "opacity": {"condition": {"param": "chosen", "value": 0.85}, "value": 0.08},
            "tooltip": [field(name, "nominal") for name in shown],
        },
    }
    if source.labels is not None:
        spec["encoding"]["color"] = field("label", "nominal", scale={"scheme": "tableau20"}, legend={"title": None})
    else:
        del spec["params"]
        spec["encoding"]["opacity"] = {"value": 0.8}
    kept = neighbourhood_kept(features, plane)
    figure = Figure(
        name="map",
        title="A map of the images",
        caption="A point per image, near points have near features (t-SNE). Point at one to see it; click a class in "
        f"the legend to pick it out. {kept:.0%} of an image's ten nearest neighbours are also near here.",
        data=data,
        spec=spec,
        ratio=0.62,
        wide=True,
    )
    return Findings(numbers={"images": len(source), "neighbours_kept": kept}, figures=[figure])
