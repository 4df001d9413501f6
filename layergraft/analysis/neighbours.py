"""Which training images does the encoder think are like this one?"""

from __future__ import annotations

import torch

from layergraft.analysis.charts import gallery
from layergraft.analysis.subject import Subject
from layergraft.data.sources.source import Source
from layergraft.data.thumbnails import address
from layergraft.evaluation.features import extract
from layergraft.runs.figure import ChartRows
from layergraft.runs.findings import Findings

QUERIES, NEAREST, BANK = 8, 8, 4000
EDGE = {True: "same class", False: "other class"}


def nearest(queries: torch.Tensor, bank: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(cosine, index) of the `count` rows of the bank nearest to each query, of shape (queries, count)."""
    a, b = (torch.nn.functional.normalize(part, dim=1) for part in (queries, bank))
    similarity, index = (a @ b.T).topk(min(count, len(bank)))
    return similarity, index


def label_of(source: Source, key: int) -> str:
    """The name of an image's class; empty without labels."""
    return "" if source.labels is None else source.classes[int(source.labels[key])]


def neighbours(subject: Subject) -> Findings:
    """Held-out images and the images of the bank that are nearest to them."""
    subject.check_queries()
    encoder = subject.encoder
    queries, bank = subject.sample(QUERIES, subject.queries), subject.sample(BANK, subject.bank)
    features, candidates = (torch.from_numpy(extract(encoder, source, "cls")) for source in (queries, bank))
    similarities, indices = nearest(features, candidates, NEAREST)

    def cell(source: Source, key: int, row: int, column: int, cosine: float | None) -> dict[str, object]:
        label, query = label_of(source, key), label_of(queries, int(queries.keys[row]))
        same_class = "" if cosine is None or not (label and query) else EDGE[label == query]
        score = "query" if cosine is None else f"{cosine:.3f}"
        return {
            "row": row,
            "column": column,
            "file": source.images.name(key),
            "label": label,
            "cosine": score,
            "below": "\n".join(filter(None, (label, score))),
            "same": same_class,
            "image": address(source.images.load(key, encoder.in_chans)),
        }

    data: ChartRows = []
    same = total = 0
    for row, (similarity, index) in enumerate(zip(similarities, indices, strict=True)):
        key = int(queries.keys[row])
        data.append(cell(queries, key, row, 0, None))
        for column, (cosine, i) in enumerate(zip(similarity.tolist(), index.tolist(), strict=True), start=1):
            neighbour = int(bank.keys[i])
            data.append(cell(bank, neighbour, row, column, cosine))
            total += 1
            same += queries.labels is not None and label_of(bank, neighbour) == label_of(queries, key)
    first = "a held-out image" if subject.held_out else "an image"
    caption = (
        f"Left {first}, then the images of the rest that are nearest to it, with the cosine of their features below."
    )
    if queries.labels is not None:
        caption += " A green edge marks the same class, a red one another."
    numbers = {"shown": len(similarities), "of_same_class": same / total if queries.labels is not None else None}
    figure = gallery(
        "neighbours", "Nearest neighbours", caption, data, "file", "label", "cosine", below="below", edge="same"
    )
    return Findings(numbers=numbers, figures=[figure])
