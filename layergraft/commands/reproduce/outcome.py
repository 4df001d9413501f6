"""What is said about a study: accuracies, paired differences, verdicts, and the numbers that they came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from layergraft.commands.reproduce.formatting import MEAN
from layergraft.commands.reproduce.statistics import Effect, Interval, family, interval, paired
from layergraft.commands.reproduce.study_file import BUDGETS, Budget, MeasuredArm, MeasuredStudy
from layergraft.commands.reproduce.verdicts import Claim, few_shot, verdicts

Values = Callable[[MeasuredArm], dict[int, float]]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Test accuracy of an arm, in percent, over seeds."""

    arm: str
    column: str
    accuracy: Interval


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The chosen graft minus another arm, paired by seed; one family for each column of a budget."""

    budget: Budget
    graft: str
    against: str
    column: str
    difference: Effect


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
class Claims:
    """The outcome of a study: verdicts, and every number that they rest on.

    Args:
        claims: verdicts.
        graft_vs_parents: at equal contrastive epochs, and at equal compute.
        accuracies: of every arm.
        differences: of the chosen graft from every other arm.
        conflict: by block.
        study: what all of it was computed from.
    """

    claims: list[Claim]
    graft_vs_parents: list[GraftVsParents]
    accuracies: list[Accuracy]
    differences: list[Difference]
    conflict: list[BlockOfSeeds]
    study: MeasuredStudy

    @property
    def trend(self) -> Effect | None:
        """Slope of the share of images in conflict over the blocks: the second part of the first claim."""
        return self.claims[0].parts[1].test

    def accuracy(self, arm: str, column: str) -> Interval | None:
        """What an arm reached in a column."""
        return next((row.accuracy for row in self.accuracies if (row.arm, row.column) == (arm, column)), None)


def _columns(study: MeasuredStudy) -> dict[str, Values]:
    """Column -> how an arm's values are read; the mean over numbers of shots first."""

    def column(name: str) -> Values:
        return lambda arm: arm.by_seed(name)

    return {MEAN: lambda arm: few_shot(arm, study)} | {name: column(name) for name in study.columns}


def _accuracies(study: MeasuredStudy) -> list[Accuracy]:
    accuracies = []
    for arm in study.arms:
        for column, values in _columns(study).items():
            by_seed = values(arm)
            if by_seed:
                accuracies.append(Accuracy(arm=arm.name, column=column, accuracy=interval(by_seed)))
    return accuracies


def _differences(
    study: MeasuredStudy, budget: Budget, others: list[MeasuredArm], columns: dict[str, Values]
) -> list[Difference]:
    """The chosen graft minus each of the others in each column, uncorrected."""
    graft = study.find(study.chosen_graft, budget)
    if graft is None:
        return []
    rows = []
    for column, values in columns.items():
        for other in others:
            effect = None if other is graft else paired(values(graft), values(other))
            if effect is not None:
                pair = {"graft": graft.name, "against": other.name}
                rows.append(Difference(budget=budget, **pair, column=column, difference=effect))
    return rows


def _one_family(rows: list[Difference]) -> list[Difference]:
    tests = family([row.difference for row in rows])
    return [replace(row, difference=test) for row, test in zip(rows, tests, strict=True)]


def _all_differences(study: MeasuredStudy) -> list[Difference]:
    differences: list[Difference] = []
    for budget in BUDGETS:
        for column, values in _columns(study).items():
            differences += _one_family(_differences(study, budget, study.taking_part(budget), {column: values}))
    return differences


def graft_vs_parents(study: MeasuredStudy, budget: Budget) -> GraftVsParents | None:
    """The second bar of the study; None where the graft or a parent takes no part in the budget's comparison."""
    graft = study.find(study.chosen_graft, budget)
    chosen = next(arm for arm in study.arms if arm.name == study.chosen_graft)
    parents = [study.find(name, budget) for name in chosen.parents]
    trained = [arm for arm in parents if arm is not None]
    if graft is None or not parents or len(trained) < len(parents):
        return None
    columns = {name: values for name, values in _columns(study).items() if name in study.few_shots}
    rows = _one_family(_differences(study, budget, trained, columns))
    lows = [row.difference.low for row in rows]
    complete = len(rows) == len(trained) * len(columns) and None not in lows
    return GraftVsParents(
        budget=budget,
        graft=graft.name,
        parents=[arm.name for arm in trained],
        rows=rows,
        beats_both=all(low is not None and low > 0 for low in lows) if complete else None,
    )


def _conflict(study: MeasuredStudy) -> list[BlockOfSeeds]:
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


def make_claims(study: MeasuredStudy) -> Claims:
    """Everything that is said about a study."""
    return Claims(
        claims=verdicts(study),
        graft_vs_parents=[
            comparison for budget in BUDGETS if (comparison := graft_vs_parents(study, budget)) is not None
        ],
        accuracies=_accuracies(study),
        differences=_all_differences(study),
        conflict=_conflict(study),
        study=study,
    )
