"""study.json of the claims: what every study holds, and what the claims need beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from layergraft.commands.study.study_file import MeasuredStudy


@dataclass(frozen=True, kw_only=True)
class BlockConflict:
    """Gradients of the two losses in one block: mean cosine over images, share of images where it is negative."""

    block: int
    mean: float
    negative: float


@dataclass(frozen=True, kw_only=True)
class PartConflict:
    """Conflict after a part of the training's steps."""

    part: float
    blocks: list[BlockConflict]


@dataclass(frozen=True, kw_only=True)
class SeedConflict:
    """Conflict in the multi-task encoder of one seed: in the end, and on the way there."""

    seed: int
    blocks: list[BlockConflict]
    during: list[PartConflict] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class MeasuredClaims(MeasuredStudy):
    """All that `layergraft reproduce` trained and measured.

    Args:
        scale: smoke, tiny, colour or small.
        chosen_graft: the graft that was best on held-out images.
        conflict: of the multi-task arm.
        changes: recipe keys of all arms that the command gave, such as the precision.
    """

    scale: str
    chosen_graft: str
    conflict: list[SeedConflict] = field(default_factory=list)
    changes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a study whose parts do not belong together; msgspec passes the error on as its own."""
        super().__post_init__()
        names = [arm.name for arm in self.arms]
        if self.chosen_graft not in names:
            raise ValueError(f"`chosen_graft` {self.chosen_graft!r} is not one of its arms: {', '.join(names)}")
