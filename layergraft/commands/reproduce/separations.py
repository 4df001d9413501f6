"""What the lead of the VICReg graft over MoCo v3's is made of: pairs of arms that differ in one thing.

VICReg with a momentum target is not among them: the objective has none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from layergraft.commands.reproduce.study_file import MeasuredClaims
from layergraft.commands.study.formatting import p_values, seeds_text, signed
from layergraft.commands.study.outcome import few_shot
from layergraft.commands.study.statistics import Effect, family, paired
from layergraft.runs.report.section import Table

# What differs, the arm that has it, the arm that has not.
PAIRS = (
    ("all of it: VICReg against MoCo v3", "graft_vicreg", "graft_uniform"),
    ("all patches instead of half, in MoCo v3", "moco_whole", "graft_uniform"),
    ("all patches instead of half, in VICReg", "graft_vicreg", "vicreg_half"),
    ("the wide head, in MoCo v3", "moco_wide", "graft_uniform"),
    ("the wide head, in VICReg", "graft_vicreg", "vicreg_narrow"),
    ("no momentum encoder and no predictor: SimCLR against MoCo v3", "graft_simclr", "graft_uniform"),
    ("the loss, and VICReg's head: VICReg against SimCLR, half of the patches", "vicreg_half", "graft_simclr"),
)


@dataclass(frozen=True, kw_only=True)
class Separation:
    """One pair: what differs, and the paired difference of the mean over shots, at equal contrastive epochs."""

    question: str
    first: str
    second: str
    difference: Effect


def separations(study: MeasuredClaims) -> list[Separation]:
    """Every pair that was measured; one family. Nothing where VICReg alone was: that separates nothing."""
    found = []
    for question, *names in PAIRS:
        first, second = (study.find(name, "epochs") for name in names)
        test = paired(few_shot(first, study), few_shot(second, study)) if first and second else None
        if first and second and test:
            found.append(Separation(question=question, first=first.title, second=second.title, difference=test))
    if len(found) < 2:
        return []
    tests = family([row.difference for row in found])
    return [replace(row, difference=test) for row, test in zip(found, tests, strict=True)]


def separations_table(rows: list[Separation]) -> Table:
    """What differs, and by how much."""
    return Table(
        title="What is VICReg's lead made of?",
        columns=["what differs", "difference [95 % interval]", "p", "p (Holm)", "seeds", "seeds to decide"],
        rows=[
            [
                row.question,
                signed(row.difference),
                *p_values(row.difference),
                str(len(row.difference.seeds)),
                seeds_text(row.difference),
            ]
            for row in rows
        ],
        note="Points of top-1 accuracy on test images, the mean over shots, paired by pre-training seed, at equal "
        "contrastive epochs, all layers at one rate, which was searched for each arm alike; p of the paired t-test, "
        f"Holm-corrected for the {len(rows)} rows.",
    )
