"""Which images a classifier named rightly and wrongly, and examples.json, which keeps it for the report."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from layergraft.runs.atomic import write_text
from layergraft.runs.json_files import read_json_as


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image that was classified.

    Args:
        file: its name in the source.
        label: its class.
        predicted: the class that it was taken for.
        image: a small picture of it, as a data address.
    """

    file: str
    label: str
    predicted: str
    image: str


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What one classifier made of all test images: that of the first split with the fewest labels.

    Args:
        encoder: as in `ResultRow`, like the next nine.
        source: likewise.
        test: likewise.
        protocol: likewise.
        variant: likewise.
        shots: likewise.
        split: likewise.
        pooling: likewise.
        seed: likewise.
        n_train: likewise.
        classes: their names.
        images: how many of each class were classified.
        taken: [class, class that it was taken for, how many images], the most frequent first; of very many classes
            the rarest mistakes are left out.
        examples: images drawn at random, as many that were named rightly as wrongly where there are as many.
    """

    encoder: str
    source: str
    test: str
    protocol: str
    variant: str | None
    shots: str
    split: str
    pooling: str | None
    seed: int
    n_train: int
    classes: list[str]
    images: list[int]
    taken: list[list[int]]
    examples: list[Example]

    @property
    def identity(self) -> tuple[object, ...]:
        """What makes two the same: the measurement, whatever its labels were drawn as."""
        images = (self.encoder, self.source, self.test, self.seed)
        return (*images, self.protocol, self.variant, self.pooling)


def read_examples(path: Path) -> list[Examples]:
    """Read an examples.json; none where there is no file, as in runs of earlier versions.

    Raises:
        UserError: it was not written by this version.
    """
    if not path.exists():
        return []
    return read_json_as(path, list[Examples], "Remove it; `layergraft evaluate` makes it again.")


def write_examples(path: Path, new: Examples) -> None:
    """Add those of one classifier; those with the same identity are replaced."""
    kept = {one.identity: one for one in [*read_examples(path), new]}
    write_text(path, json.dumps([asdict(one) for one in kept.values()], indent=1) + "\n")
