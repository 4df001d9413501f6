"""The outcome as tables: the page shows them, and so does the documentation."""

from __future__ import annotations

from layergraft.commands.reproduce.formatting import (
    AT,
    MEAN,
    column_name,
    p_value,
    p_values,
    signed,
    spread,
)
from layergraft.commands.reproduce.outcome import Claims, GraftVsParents
from layergraft.commands.reproduce.statistics import Effect
from layergraft.commands.reproduce.study_file import Budget, MeasuredArm, Trial
from layergraft.commands.reproduce.verdicts import Claim
from layergraft.config.check import dotted_text
from layergraft.runs.readable import counted, duration
from layergraft.runs.report.section import Table


def parts_table(claim: Claim) -> Table:
    """The hypotheses of a claim."""
    title = f"Claim {claim.number}" + (f", {AT[claim.budget]}" if claim.budget else "")
    return Table(
        title=title,
        columns=["hypothesis", "mean [95 % interval]", "unit", "p", "p (Holm)", "seeds", "verdict"],
        rows=[
            [
                part.hypothesis,
                part.shown,
                part.unit,
                *p_values(part.test),
                "0" if part.test is None else str(len(part.test.seeds)),
                part.verdict,
            ]
            for part in claim.parts
        ],
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
    names = ", ".join(f"{title_of(claims, row.against)} at {column_name(row.column)}" for row in below)
    return f"{len(bar.rows) - len(below)} of {len(bar.rows)} paired 95 % intervals lie above 0; not those over {names}."


def bar_table(claims: Claims, bar: GraftVsParents) -> Table:
    """The graft against both parents at every number of shots."""
    rows = []
    for row in bar.rows:
        means = [spread(claims.accuracy(arm, row.column)) for arm in (bar.graft, row.against)]
        name = f"{column_name(row.column)}, over {title_of(claims, row.against)}"
        rows.append([name, signed(row.difference), *p_values(row.difference), *means, str(len(row.difference.seeds))])
    return Table(
        title=f"{title_of(claims, bar.graft)} against its parents, {AT[bar.budget]}",
        columns=["", "difference [95 % interval]", "p", "p (Holm)", "graft", "parent", "seeds"],
        rows=rows,
        note=f"Top-1 (%) on test images. The difference is paired by pre-training seed; p of the paired t-test, "
        f"Holm-corrected for the {len(rows)} rows of this table.",
    )


def differences_table(claims: Claims, budget: Budget) -> Table:
    """The chosen graft minus every other arm, mean over the numbers of shots."""
    rows = [
        [
            title_of(claims, row.against),
            signed(row.difference),
            *p_values(row.difference),
            str(len(row.difference.seeds)),
        ]
        for row in claims.differences
        if (row.budget, row.column) == (budget, MEAN)
    ]
    return Table(
        title=f"{title_of(claims, claims.study.chosen_graft)}, minus each other arm, {AT[budget]}",
        columns=["", "difference [95 % interval]", "p", "p (Holm)", "seeds"],
        rows=rows,
        note=f"Points of accuracy, mean of the shots, paired by pre-training seed; Holm-corrected for the {len(rows)} "
        "rows of this table.",
    )


def accuracy_table(claims: Claims, budget: Budget) -> Table:
    """Every arm of a comparison and every number of labels."""
    study = claims.study
    columns = [*study.columns, MEAN]
    rows = []
    for arm in study.taking_part(budget):
        cells = [spread(claims.accuracy(arm.name, column)) for column in columns]
        rows.append([shown(claims, arm), *cells, str(len(arm.seeds)), _four_digits(str(arm.flops / 1e12))])
    return Table(
        title=f"Top-1 accuracy (%), {AT[budget]}",
        columns=["", *map(column_name, columns), "seeds", "TFLOP"],
        rows=rows,
        note="Mean ± half of the 95 % interval over pre-training seeds; each seed's random splits were averaged first. "
        "kNN takes all labels; the mean is that of the numbers of shots. TFLOP: 10¹² floating-point operations of "
        "all stages, counted.",
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


def _settings(trial: Trial) -> str:
    return ", ".join(f"{key} {_four_digits(value)}" for key, value in dotted_text(trial.settings).items())


def arms_table(claims: Claims) -> Table:
    """What each arm is, and what its search chose."""
    rows = []
    for arm in claims.study.arms:
        stages = ", then ".join(f"{s['objective']}, {s['epochs']:.3g} epochs" for s in arm.stages)
        chosen = next((trial for trial in arm.search if trial.chosen), None)
        settings = "" if chosen is None else _settings(chosen)
        held_out = arm.held_out(claims.study.few_shots, claims.study.common_seeds)
        reached = "" if held_out is None else f"{held_out:.2f}"
        rows.append([shown_apart(claims, arm), stages or "untrained", arm.plan, settings, reached])
    return Table(
        title="The arms, and what their search chose",
        columns=["", "stages", "plan", "chosen settings", "held-out accuracy (%)"],
        rows=rows,
        note="Held-out accuracy: mean of the shots, over the seeds that all arms have. By it the graft was chosen, "
        "among the arms that continue MAE with MoCo v3 at equal contrastive epochs.",
    )


def search_table(claims: Claims) -> Table:
    """Every trial of every arm."""
    rows = [
        [
            arm.title,
            _settings(trial),
            f"{trial.holdout:.2f}",
            "chosen" if trial.chosen else "",
        ]
        for arm in claims.study.searched
        for trial in arm.search
    ]
    return Table(title="All trials", columns=["", "settings", "held-out accuracy (%)", ""], rows=rows)


def facts_table(claims: Claims) -> Table:
    """Command, commit, machine, duration, images and protocol."""
    study, machine = claims.study, claims.study.machine
    gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
    facts = {
        "command": study.command,
        "commit": study.commit or "not known",
        "duration": duration(study.seconds),
        "machine": f"{machine['cpu']}, {counted(machine['cores'], 'core')}, "
        f"{counted(machine['threads'], 'thread')}{gpu}",
        "versions": ", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
        "images": study.source,
        "scale": study.scale,
        "seeds": ", ".join(map(str, study.seeds)),
    }
    facts |= {f"protocol: {key}": value for key, value in dotted_text(study.protocol).items()}
    return Table(title="Machine, command and protocol", columns=["", ""], rows=[[k, v] for k, v in facts.items()])


def title_of(claims: Claims, name: str) -> str:
    """An arm as readers know it."""
    return next(arm.title for arm in claims.study.arms if arm.name == name)


def shown(claims: Claims, arm: MeasuredArm) -> str:
    """The arm's title, marked where it is the chosen graft."""
    return f"{arm.title} (chosen graft)" if arm.base == claims.study.chosen_graft else arm.title


def shown_apart(claims: Claims, arm: MeasuredArm) -> str:
    """The same, where both lengths of an arm stand side by side."""
    return f"{shown(claims, arm)}, {AT['compute']}" if arm.budget == "compute" else shown(claims, arm)


def _four_digits(value: str) -> str:
    """A text, in four digits where it is a number."""
    try:
        number = float(value)
    except ValueError:
        return value
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"
