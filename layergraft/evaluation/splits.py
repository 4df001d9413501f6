"""Few labelled images: k per class or a percentage, stratified, nested, several random splits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from layergraft.errors import UserError
from layergraft.randomness import Randomness


def parse_shots(shots: int | str) -> tuple[int | None, float]:
    """`5` -> (5, 0); `"1%"` -> (None, 0.01)."""
    text = str(shots)
    try:
        if text.endswith("%"):
            fraction = float(text[:-1]) / 100
            if 0 < fraction <= 1:
                return None, fraction
        elif int(text) > 0:
            return int(text), 0.0
    except ValueError:
        pass
    raise UserError(f"{shots!r} is no number of shots.", "Use images per class (5) or a percentage (1%).")


def few_labels(
    labels: npt.NDArray[np.int64], keys: npt.NDArray[np.int64], classes: list[str], shots: int | str, split: int
) -> npt.NDArray[np.int64]:
    """Indices of the labelled images of one split; fewer shots are a subset of more.

    Raises:
        UserError: a class has fewer images than shots.
    """
    count, fraction = parse_shots(shots)
    if fraction == 1.0:
        return np.arange(len(labels))
    order = Randomness(seed=split, scope="shots").permutation("order", keys, 0)
    chosen = []
    for c, name in enumerate(classes):
        own = order[labels[order] == c]
        need = count if count is not None else max(1, round(fraction * len(own)))
        if len(own) < need:
            raise UserError(
                f"{need} shots were asked for, but class {name!r} has {len(own)} images.",
                f"Use at most {min(int((labels == i).sum()) for i in range(len(classes)))} shots.",
            )
        chosen.append(own[:need])
    return np.sort(np.concatenate(chosen))
