"""From the measured conflict, a plan for the contrastive stage: a learning-rate scale for each block.

The rule follows the paper's argument. Where the two losses agree, what masked image modelling has learned serves the
contrastive loss as well, and the block need not move far; where they conflict, one of them must win, and in the upper
blocks that is the contrastive loss. So the scale is the share of images in conflict, relative to the largest, made
non-decreasing with depth and kept above a floor. It is where a search on held-out images starts, not its result.
"""

from __future__ import annotations

from collections.abc import Sequence

from layergraft.analysis.charts import LAYER_AXIS
from layergraft.analysis.conflict import measure
from layergraft.analysis.subject import Subject
from layergraft.runs.figure import Figure, field, tooltip
from layergraft.runs.findings import Findings

FLOOR = 0.1


def non_decreasing(values: Sequence[float]) -> list[float]:
    """The nearest non-decreasing sequence in least squares: pools neighbours that are out of order."""
    pools: list[tuple[float, int]] = []
    for value in values:
        total, count = value, 1
        while pools and pools[-1][0] / pools[-1][1] > total / count:
            total, count = total + pools[-1][0], count + pools[-1][1]
            pools.pop()
        pools.append((total, count))
    return [total / count for total, count in pools for _ in range(count)]


def suggested_scales(shares: Sequence[float]) -> list[float]:
    """Share of images in conflict by block -> learning-rate scale by block, the largest 1."""
    fitted = non_decreasing(shares)
    largest = fitted[-1]
    return [round(max(FLOOR, value / largest), 2) if largest > 0 else 1.0 for value in fitted]


def suggest(subject: Subject) -> Findings:
    """A recipe's `plan`, from the share of images in conflict."""
    cosines, _ = measure(subject)
    shares = (cosines < 0).double().mean(0).tolist()
    scales = suggested_scales(shares)
    data = [
        {"block": str(block), "lr scale": scale, "in conflict": 100 * share}
        for block, (scale, share) in enumerate(zip(scales, shares, strict=True))
    ]
    encoding = {
        "x": LAYER_AXIS | {"field": "block", "title": "block"},
        "y": field("lr scale", "quantitative", "scale of the learning rate", scale={"domain": [0, 1]}),
        "tooltip": tooltip("block", **{"lr scale": ".2f", "in conflict": ".0f"}),
    }
    figure = Figure(
        name="suggest",
        title="A plan from the conflict",
        caption="Suggested learning-rate scale of each block in the contrastive stage: "
        "slow where the losses agree, fast where they conflict. A start for a search on held-out images.",
        data=data,
        spec={"mark": {"type": "bar", "color": "#2a9d78", "cornerRadiusEnd": 3}, "encoding": encoding},
    )
    written = ", ".join(f"{scale:g}" for scale in scales)
    snippet = f"plan: {{lr_scale: {{blocks: [{written}]}}, freeze: [patch_embed, positions]}}"
    return Findings(numbers={"lr_scale": scales, "in_conflict": shares}, figures=[figure], snippet=snippet)
