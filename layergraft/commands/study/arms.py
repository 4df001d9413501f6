"""What a study compares: its arms. How each is trained, the study says (`jobs.Study.arm_recipe`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

COMPUTE = "_compute"  # behind the name of an arm: the same at equal compute


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train an encoder, or a stage that several of them share.

    Args:
        name: what files call it.
        title: for people.
        first: the arm whose encoder it starts from, with the same seed; None starts from fresh weights.
        floor: what is measured where nothing is trained: the recipe's first weights, or the pixels.
        encoder: which encoder is measured: the last stage's `encoder`, or its `encoder_ema`.
        parents: the arms it is compared with.
        compute: whether it is also trained to equal compute.
        shared: whether it is a stage on the way to others: it is trained as it stands, neither searched nor measured.
    """

    name: str
    title: str
    first: str | None = None
    floor: Literal["random", "pixels"] | None = None
    encoder: str = "encoder"
    parents: tuple[str, ...] = ()
    compute: bool = True
    shared: bool = False

    @property
    def trained(self) -> bool:
        """Whether it trains anything."""
        return self.floor is None

    @property
    def searched(self) -> bool:
        """Whether its learning rate is searched."""
        return self.trained and not self.shared
