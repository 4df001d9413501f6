"""What is said about the claims as tables: the page shows them, and so does the documentation."""

from __future__ import annotations

import numpy as np

from layergraft.commands.reproduce.outcome import Claims, GraftVsParents
from layergraft.commands.reproduce.verdicts import Claim
from layergraft.commands.study.formatting import (
    AT,
    DECIDE,
    DECIDE_NOTE,
    column_name,
    p_value,
    p_values,
    seeds_text,
    signed,
    spread,
)
from layergraft.commands.study.statistics import MOST_SEEDS, Effect
from layergraft.runs.readable import duration
from layergraft.runs.report.section import Table


def parts_table(claim: Claim) -> Table:
    """The hypotheses of a claim."""
    title = f"Claim {claim.number}" + (f", {AT[claim.budget]}" if claim.budget else "")
    return Table(
        title=title,
        columns=["hypothesis", "mean [95 % interval]", "unit", "p", "p (Holm)", "seeds", "verdict", DECIDE],
        rows=[
            [
                part.hypothesis,
                part.shown,
                part.unit,
                *p_values(part.test),
                "0" if part.test is None else str(len(part.test.seeds)),
                part.verdict,
                seeds_text(part.test),
            ]
            for part in claim.parts
        ],
    )


def pilot_table(claims: Claims) -> Table:
    """What deciding the undecided parts would cost, with the recorded study as the pilot."""
    study = claims.study
    of_a_seed = sum(float(np.mean([seed.seconds for seed in arm.seeds])) for arm in study.arms if arm.flops)
    rows = []
    for claim in claims.claims:
        for part in (part for part in claim.parts if part.verdict == "undecided" and part.test is not None):
            assert part.test is not None
            had, needed = len(part.test.seeds), part.test.seeds_needed
            known = needed is not None and needed <= MOST_SEEDS
            more = duration(max(0, (needed or 0) - had) * of_a_seed) if known else "–"
            name = f"{claim.number}" + (f", {AT[claim.budget]}" if claim.budget else "")
            rows.append([name, part.hypothesis, str(had), seeds_text(part.test), more])
    return Table(
        title="What would decide the rest",
        columns=["claim", "hypothesis", "seeds", DECIDE, "time of one core"],
        rows=rows,
        note=f"{DECIDE_NOTE} Here that is the parts of a claim. Time: of training and measuring all arms with the "
        f"seeds that are missing, {duration(of_a_seed)} a seed on the recorded machine. A number below the seeds that "
        "there are says that the measured effect was large and unlucky in its p.",
    )


def verdict_table(claims: Claims) -> Table:
    """Every claim in a line."""
    rows = [
        [f"{claim.number}. {claim.statement}", AT[claim.budget] if claim.budget else "", claim.verdict, claim.reason]
        for claim in sorted(claims.claims, key=lambda claim: claim.number)
    ]
    return Table(title="Verdicts", columns=["claim", "", "verdict", "because"], rows=rows)


def bar_sentence(claims: Claims, bar: GraftVsParents) -> str:
    """Whether the chosen graft beats both parents at every number of shots."""
    shots = ", ".join(claims.study.few_shots)
    below = [row for row in bar.rows if row.difference.low is None or row.difference.low <= 0]
    if bar.beats_both:
        return f"All {len(bar.rows)} paired 95 % intervals lie above 0: it beats both parents at {shots} shots."
    if bar.beats_both is None:
        return "Open: an interval needs more than one seed of the graft and of both parents."
    names = ", ".join(f"{claims.title_of(row.against)} at {column_name(row.column)}" for row in below)
    return f"{len(bar.rows) - len(below)} of {len(bar.rows)} paired 95 % intervals lie above 0; not those over {names}."


def bar_table(claims: Claims, bar: GraftVsParents) -> Table:
    """The graft against both parents at every number of shots."""
    rows = []
    for row in bar.rows:
        means = [spread(claims.accuracy(arm, row.column)) for arm in (bar.graft, row.against)]
        name = f"{column_name(row.column)}, over {claims.title_of(row.against)}"
        rows.append([name, signed(row.difference), *p_values(row.difference), *means, str(len(row.difference.seeds))])
    return Table(
        title=f"{claims.title_of(bar.graft)} against its parents, {AT[bar.budget]}",
        columns=["", "difference [95 % interval]", "p", "p (Holm)", "graft", "parent", "seeds"],
        rows=rows,
        note=f"Top-1 (%) on test images. The difference is paired by pre-training seed; p of the paired t-test, "
        f"Holm-corrected for the {len(rows)} rows of this table.",
    )


def conflict_table(claims: Claims) -> Table:
    """Conflict by block, and its trend."""
    test = claims.trend
    rows = [
        [str(conflict.block), spread(conflict.negative), signed(conflict.cosine, 4), str(len(conflict.cosine.seeds))]
        for conflict in claims.conflict
    ]
    return Table(
        title="Conflict by block",
        columns=["block", "images in conflict (%)", "mean cosine [95 % interval]", "seeds"],
        rows=rows,
        note="" if test is None else trend_sentence(test),
    )


def trend_sentence(test: Effect) -> str:
    """Whether conflict rises with depth."""
    return (
        f"Trend over depth: {signed(test)} percentage points of images per block, p = {p_value(test.p)}; the slope of "
        f"each seed's least-squares line, tested against zero over {len(test.seeds)} seeds."
    )


def conflict_during_table(claims: Claims) -> Table:
    """Conflict on the way through training."""
    rows = [
        [
            "the end" if row.part == 1 else f"{100 * row.part:g} %",
            spread(row.negative),
            signed(row.cosine, 3),
            p_value(row.cosine.p_holm),
            signed(row.slope),
            p_value(row.slope.p_holm),
            str(len(row.cosine.seeds)),
        ]
        for row in claims.conflict_during
    ]
    return Table(
        title="Conflict on the way through training",
        columns=[
            "steps done",
            "images in conflict (%)",
            "mean cosine [95 % interval]",
            "p (Holm)",
            "slope over depth [95 % interval]",
            "p (Holm)",
            "seeds",
        ],
        rows=rows,
        note="Of the multi-task network, means over its blocks. Slope: percentage points of images in conflict per "
        "block. p: against zero, corrected for all tests of this table.",
    )
