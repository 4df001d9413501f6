"""The measurement that a run stands for: its last encoder with the fewest labels, beside the pixels."""

from __future__ import annotations

from dataclasses import dataclass

from layergraft.runs.report.run_files import RunFiles
from layergraft.runs.result_tables import Measured, ResultGroup, group_by_images, measured
from layergraft.runs.results import ResultRow

FLOORS = ("pixels", "random")
# What is learned from few labels comes first; nearest neighbours need all of them.
_PROTOCOLS = ("logistic", "ridge", "prototype", "knn")


@dataclass(frozen=True, kw_only=True)
class Headline:
    """What the first screen says.

    Args:
        group: the images that it was measured on.
        few: the encoder's accuracy with the fewest labels.
        more: the same with other numbers of labels, in their order.
        pixels: what raw pixels reach where `few` was measured, or None.
        random: what the recipe's first weights reach there, or None.
        splits: differences to the pixels in points, one for each split that both were measured on.
    """

    group: ResultGroup
    few: Measured
    more: list[Measured]
    pixels: Measured | None
    random: Measured | None
    splits: list[float]

    @property
    def gain(self) -> float | None:
        """Points above raw pixels."""
        return None if self.pixels is None else self.few.row.value - self.pixels.row.value

    @property
    def better(self) -> int:
        """In how many splits the encoder is better than the pixels."""
        return sum(difference > 0 for difference in self.splits)


def find_headline(run: RunFiles) -> Headline | None:
    """The last stage's encoder, or the first one that was measured; None where no accuracy was."""
    rows = [row for row in run.results if row.metric == "top1" and row.usual]
    names = dict.fromkeys(row.encoder for row in rows if row.encoder not in FLOORS)
    encoder = run.last_stage if run.last_stage in names else next(iter(names), None)
    for protocol in _PROTOCOLS:
        wanted = [row for row in rows if (row.encoder, row.protocol) == (encoder, protocol) and row.split != "std"]
        if wanted:
            return _headline(rows, wanted[0])
    return None


def _headline(rows: list[ResultRow], first: ResultRow) -> Headline:
    """All numbers of labels of one measurement, and what the floors reach with the fewest."""
    same = [row for row in rows if _kind(row) == _kind(first) and row.images == first.images]
    (group,) = group_by_images([(row.encoder, row) for row in same])
    own = [one for one in measured([(row.encoder, row) for row in same]) if one.row.encoder == first.encoder]
    own = [one for one in own if one.row.pooling == first.pooling]
    own.sort(key=lambda one: one.row.n_train)
    few = own[0]
    floors = {
        name: next(
            (
                one
                for one in measured([(name, row) for row in same if row.encoder == name])
                if one.row.shots == few.row.shots and one.row.pooling in (None, first.pooling)
            ),
            None,
        )
        for name in FLOORS
    }
    by_split = {
        name: {
            row.split: row.value
            for row in same
            if row.encoder == name and row.shots == few.row.shots and row.pooling in (None, first.pooling)
        }
        for name in (first.encoder, "pixels")
    }
    common = [split for split in by_split[first.encoder] if split.isdigit() and split in by_split["pixels"]]
    return Headline(
        group=group,
        few=few,
        more=own[1:],
        pixels=floors["pixels"],
        random=floors["random"],
        splits=[by_split[first.encoder][split] - by_split["pixels"][split] for split in common],
    )


def _kind(row: ResultRow) -> tuple[object, ...]:
    return row.source, row.test, row.seed, row.protocol, row.variant, row.metric
