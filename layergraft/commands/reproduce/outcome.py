"""What is said about the claims: accuracies, paired differences, verdicts, and the numbers that they came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from layergraft.commands.reproduce.separations import Separation, separations
from layergraft.commands.reproduce.study_file import BlockConflict, MeasuredClaims
from layergraft.commands.reproduce.verdicts import Claim, verdicts
from layergraft.commands.study.formatting import AT
from layergraft.commands.study.outcome import (
    Difference,
    Outcome,
    Words,
    accuracies_of,
    columns_of,
    differences_of,
    families,
    one_family,
)
from layergraft.commands.study.statistics import Effect, Interval, effect, family, interval, trend
from layergraft.commands.study.study_file import BUDGETS, Budget


@dataclass(frozen=True, kw_only=True)
class GraftVsParents:
    """Does the graft that was chosen on held-out images beat both parents at every number of shots?

    Args:
        budget: what the arms have in common.
        graft: arm.
        parents: arms.
        rows: the paired differences, for each parent and number of images per class; one family.
        beats_both: whether all 95 % intervals lie above 0; None where an interval is missing.
    """

    budget: Budget
    graft: str
    parents: list[str]
    rows: list[Difference]
    beats_both: bool | None


@dataclass(frozen=True, kw_only=True)
class BlockOfSeeds:
    """Conflict in one block: cosine, and share of images (in percent) with a negative one, over seeds."""

    block: int
    cosine: Interval
    negative: Interval


@dataclass(frozen=True, kw_only=True)
class ConflictAfter:
    """Conflict after a part of the training's steps, over seeds.

    Args:
        part: 1 is the end.
        cosine: mean over images and blocks.
        negative: share of images with a negative cosine, in percent, mean over blocks.
        slope: of that share over the blocks, in percentage points.
    """

    part: float
    cosine: Effect
    negative: Interval
    slope: Effect


@dataclass(frozen=True, kw_only=True)
class Claims(Outcome):
    """The outcome of a study of the claims: verdicts, and every number that they rest on.

    Args:
        claims: verdicts.
        graft_vs_parents: at equal contrastive epochs, and at equal compute.
        conflict: by block, in the end.
        conflict_during: on the way there, and in the end; the tests of all rows are one family. Empty where the study
            looked at the end alone.
        study: what all of it was computed from.
        separations: what the lead of VICReg is made of.
    """

    words: ClassVar[Words] = Words(
        mark="chosen graft",
        differences="{}, minus each other arm",
        ahead="points that the graft is ahead",
        side="Right of 0 the chosen graft is ahead",
        chosen="By it the graft was chosen, among the arms that continue MAE with MoCo v3 at equal contrastive epochs.",
        at=AT,
    )

    claims: list[Claim]
    graft_vs_parents: list[GraftVsParents]
    conflict: list[BlockOfSeeds]
    study: MeasuredClaims
    conflict_during: list[ConflictAfter] = field(default_factory=list)
    separations: list[Separation] = field(default_factory=list)

    @property
    def measured(self) -> MeasuredClaims:
        return self.study

    @property
    def reference(self) -> str:
        return self.study.chosen_graft

    @property
    def facts(self) -> dict[str, str]:
        return {"scale": self.study.scale} | {key: str(value) for key, value in self.study.changes.items()}

    def other(self, row: Difference) -> str:
        return row.against

    @property
    def highlighted(self) -> dict[str, str]:
        chosen = next(arm for arm in self.study.arms if arm.name == self.study.chosen_graft)
        parents = {arm.name: arm.title for arm in self.study.arms if arm.name in chosen.parents}
        return parents | {chosen.name: chosen.title}

    @property
    def trend(self) -> Effect | None:
        """Slope of the share of images in conflict over the blocks: the second part of the first claim."""
        return self.claims[0].parts[1].test


def graft_vs_parents(study: MeasuredClaims, budget: Budget) -> GraftVsParents | None:
    """The second bar of the study; None where the graft or a parent takes no part in the budget's comparison."""
    graft = study.find(study.chosen_graft, budget)
    chosen = next(arm for arm in study.arms if arm.name == study.chosen_graft)
    parents = [study.find(name, budget) for name in chosen.parents]
    trained = [arm for arm in parents if arm is not None]
    if graft is None or not parents or len(trained) < len(parents):
        return None
    columns = {name: values for name, values in columns_of(study).items() if name in study.few_shots}
    rows = one_family(differences_of(budget, [(graft, parent) for parent in trained], columns))
    lows = [row.difference.low for row in rows]
    complete = len(rows) == len(trained) * len(columns) and None not in lows
    return GraftVsParents(
        budget=budget,
        graft=graft.name,
        parents=[arm.name for arm in trained],
        rows=rows,
        beats_both=all(low is not None and low > 0 for low in lows) if complete else None,
    )


def _differences(study: MeasuredClaims, budget: Budget) -> list[Difference]:
    """The chosen graft minus every other arm."""
    graft = study.find(study.chosen_graft, budget)
    return [] if graft is None else families(study, budget, [(graft, arm) for arm in study.taking_part(budget)])


def _conflict(study: MeasuredClaims) -> list[BlockOfSeeds]:
    cosines: dict[int, dict[int, float]] = {}  # block -> seed -> mean cosine
    shares: dict[int, dict[int, float]] = {}  # block -> seed -> images with a negative one, in percent
    for measured in study.conflict:
        for block in measured.blocks:
            cosines.setdefault(block.block, {})[measured.seed] = block.mean
            shares.setdefault(block.block, {})[measured.seed] = 100 * block.negative
    return [
        BlockOfSeeds(block=block, cosine=interval(cosines[block]), negative=interval(shares[block]))
        for block in sorted(cosines)
    ]


def _conflict_during(study: MeasuredClaims) -> list[ConflictAfter]:
    by_part: dict[float, dict[int, list[BlockConflict]]] = {}  # part -> seed -> blocks
    for measured in study.conflict:
        for during in measured.during:
            by_part.setdefault(during.part, {})[measured.seed] = during.blocks
    if not by_part:
        return []
    by_part[1.0] = {measured.seed: measured.blocks for measured in study.conflict}
    shares = {
        part: {seed: [100 * block.negative for block in blocks] for seed, blocks in of_seeds.items()}
        for part, of_seeds in by_part.items()
    }
    cosines = [
        effect({seed: float(np.mean([block.mean for block in blocks])) for seed, blocks in by_part[part].items()})
        for part in sorted(by_part)
    ]
    slopes = [trend(shares[part]) for part in sorted(by_part)]
    tests = family([*cosines, *slopes])
    return [
        ConflictAfter(
            part=part,
            cosine=cosine,
            negative=interval({seed: float(np.mean(values)) for seed, values in shares[part].items()}),
            slope=slope,
        )
        for part, cosine, slope in zip(sorted(by_part), tests[: len(by_part)], tests[len(by_part) :], strict=True)
    ]


def make_claims(study: MeasuredClaims) -> Claims:
    """Everything that is said about a study."""
    return Claims(
        claims=verdicts(study),
        graft_vs_parents=[
            comparison for budget in BUDGETS if (comparison := graft_vs_parents(study, budget)) is not None
        ],
        accuracies=accuracies_of(study),
        differences=[row for budget in BUDGETS for row in _differences(study, budget)],
        conflict=_conflict(study),
        conflict_during=_conflict_during(study),
        separations=separations(study),
        study=study,
    )
