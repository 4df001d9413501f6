"""The guard of a stage as a recipe writes it; `layergraft.training.guard` carries it out."""

from __future__ import annotations

from layergraft.config.base import Config, Fraction, NonNegativeFloat, PositiveFraction, PositiveInt


class GuardConfig(Config, frozen=True, kw_only=True):
    """What keeps a stage from leaving an encoder that is worse than the one it started from.

    Before the first step and at each look of the monitor the encoder is measured on held-out images. With labels: kNN
    and 5-shot, whose mean decides; a later point is kept where it leads the start by more than chance and neither
    figure is below the start's. Without labels nobody can tell better from other: of the way from the start's weights
    to those of the last look as much is kept as still finds the start's neighbours and spreads features as widely,
    found to an eighth; training itself goes on undisturbed. What was kept is what the stage leaves.

    Args:
        margin: with labels: points of the mean of kNN and 5-shot below what was kept, from which on it has fallen (and
            by more than twice its standard error).
        agreement: without labels: the part of held-out images' nearest neighbours that what is kept shares with the
            start at least; where not even an eighth of the way does, it has fallen.
        rankme: without labels: likewise the least part of the start's RankMe.
        soften: at the first fall, the stage goes back to what was kept and on with its learning rates times this
            factor; the second fall ends it. null ends it at the first.
        images: at most this many held-out images are measured, and as many training images are their neighbours.
    """

    margin: NonNegativeFloat = 1.0
    agreement: Fraction = 0.85
    rankme: Fraction = 0.7
    soften: PositiveFraction | None = 0.3
    images: PositiveInt = 2000
