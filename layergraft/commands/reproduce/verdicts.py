"""The paper's four claims as hypotheses with a direction, and what a study says about each.

The hypotheses were written down before any study was run. The statistic of claims 2 to 4 is one number per network: its
top-1 test accuracy averaged over 1, 5, 10 and 50 images per class; arms are compared by the paired difference over
seeds. That of claim 1 is taken from the gradients of the multi-task network.

A part holds if its 95 % interval lies on the claimed side of zero and its p-value, corrected (Holm) for the parts of
its claim, is below 0.05; it does not hold if the same is true of the other side; else it is undecided at this scale. A
claim holds if all its parts hold, and does not hold if any does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from layergraft.commands.reproduce.study_file import MeasuredClaims
from layergraft.commands.study.formatting import signed
from layergraft.commands.study.outcome import few_shot
from layergraft.commands.study.statistics import LEVEL, Effect, effect, family, paired, trend
from layergraft.commands.study.study_file import Budget

Decision = Literal["holds", "does not hold", "undecided"]
Side = Literal["above 0", "below 0"]
Sign = Literal[">", "<"]
POINTS = "points of accuracy"
COSINE = "cosine"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One hypothesis.

    Args:
        hypothesis: in words.
        statistic: what is compared with zero.
        unit: of the statistic.
        claimed: the side of zero on which the claim expects it.
        test: None where an arm was not measured.
        verdict: by the rule of this module.
    """

    hypothesis: str
    statistic: str
    unit: str
    claimed: Side
    test: Effect | None
    verdict: Decision = "undecided"

    @property
    def shown(self) -> str:
        """Mean and interval as text."""
        return "not measured" if self.test is None else signed(self.test, 3 if self.unit == COSINE else 2)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One of the paper's claims, and what the study says about it.

    Args:
        number: in the paper's order.
        statement: what is claimed.
        budget: what the arms have in common; None for the claim about gradients.
        verdict: by the rule of this module.
        reason: in a sentence.
        parts: the hypotheses.
    """

    number: int
    statement: str
    budget: Budget | None
    verdict: Decision
    reason: str
    parts: list[Part]


def judge(part: Part) -> Part:
    """The part with its verdict."""
    test = part.test
    if test is None or test.p is None:
        return part
    corrected = test.p if test.p_holm is None else test.p_holm
    if corrected >= 1 - LEVEL:
        return part
    side: Side = "above 0" if test.mean > 0 else "below 0"
    return replace(part, verdict="holds" if side == part.claimed else "does not hold")


def claim(number: int, statement: str, budget: Budget | None, parts: Sequence[Part]) -> Claim:
    """Judge the parts as one family, and the claim by its parts."""
    known = [part.test for part in parts if part.test is not None]
    corrected = iter(family(known))
    judged = [judge(replace(part, test=next(corrected)) if part.test is not None else part) for part in parts]
    verdicts = {part.verdict for part in judged}
    verdict: Decision = "undecided"
    if "does not hold" in verdicts:
        verdict = "does not hold"
    elif verdicts == {"holds"}:
        verdict = "holds"
    deciding = [part for part in judged if part.verdict == verdict]
    return Claim(
        number=number,
        statement=statement,
        budget=budget,
        verdict=verdict,
        reason="; ".join(map(_finding, deciding)) + ".",
        parts=judged,
    )


def _finding(part: Part) -> str:
    """`multi-task < MAE: −3.20 [−4.00, −2.40] points of accuracy, as claimed`."""
    if part.test is None:
        return f"{part.hypothesis}: not measured"
    if part.test.low is None:
        why = "one seed, so no interval"
    elif part.verdict == "holds":
        why = "as claimed"
    elif part.verdict == "does not hold":
        why = "on the other side"
    elif part.test.p is None:
        why = "the same in every seed"
    elif part.test.p < 1 - LEVEL:
        why = "no longer significant once corrected for the claim's other parts"
    else:
        why = "the interval holds zero"
    return f"{part.hypothesis}: {part.shown} {part.unit}, {why}"


def _compare(study: MeasuredClaims, budget: Budget, first: str, sign: Sign, second: str) -> Part:
    """The hypothesis that one arm ends above or below another."""
    a, b = study.find(first, budget), study.find(second, budget)
    names = [name if arm is None else arm.title for name, arm in ((first, a), (second, b))]
    test = paired(few_shot(a, study), few_shot(b, study)) if a is not None and b is not None else None
    return Part(
        hypothesis=f"{names[0]} {sign} {names[1]}",
        statistic=f"{names[0]} − {names[1]}, mean of {', '.join(study.few_shots)} shots",
        unit=POINTS,
        claimed="above 0" if sign == ">" else "below 0",
        test=test,
    )


def _gradients(study: MeasuredClaims) -> Claim:
    cosines = {measured.seed: float(np.mean([block.mean for block in measured.blocks])) for measured in study.conflict}
    shares = {measured.seed: [100 * block.negative for block in measured.blocks] for measured in study.conflict}
    parts = [
        Part(
            hypothesis="the gradients of the two losses conflict",
            statistic="cosine in the multi-task network, mean over images and blocks",
            unit=COSINE,
            claimed="below 0",
            test=effect(cosines) if cosines else None,
        ),
        Part(
            hypothesis="conflict grows with depth",
            statistic="slope over the blocks of the share of images with a negative cosine",
            unit="percentage points per block",
            claimed="above 0",
            test=trend(shares) if shares else None,
        ),
    ]
    return claim(1, "The gradients of MIM and CL conflict, more often in deeper layers.", None, parts)


def verdicts(study: MeasuredClaims) -> list[Claim]:
    """The claim about gradients, then the others at equal contrastive epochs and at equal compute."""
    graft = study.chosen_graft
    claims = [_gradients(study)]
    budgets: tuple[Budget, ...] = ("epochs", "compute")
    for budget in budgets:

        def compare(first: str, sign: Sign, second: str, budget: Budget = budget) -> Part:
            return _compare(study, budget, first, sign, second)

        claims += [
            claim(
                2,
                "The naive sum of both losses (multi-task) ends below both parents.",
                budget,
                [compare("joint", "<", "mae"), compare("joint", "<", "scratch")],
            ),
            claim(
                3,
                "Order matters: MIM→CL works, CL→MIM falls far below it, even below multi-task.",
                budget,
                [compare("graft_frozen", ">", "cl_mim"), compare("cl_mim", "<", "joint")],
            ),
            claim(
                4,
                "The grafted encoder beats both parents, and slow lower layers beat frozen ones.",
                budget,
                [
                    compare(graft, ">", "mae"),
                    compare(graft, ">", "scratch"),
                    compare("graft_slow", ">", "graft_frozen"),
                ],
            ),
        ]
    return claims
