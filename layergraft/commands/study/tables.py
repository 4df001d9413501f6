"""The outcome of a study as tables: the page shows them, and so does the documentation."""

from __future__ import annotations

from layergraft.commands.study.formatting import (
    DECIDE,
    DECIDE_NOTE,
    MEAN,
    column_name,
    p_values,
    seeds_text,
    signed,
    spread,
)
from layergraft.commands.study.outcome import Outcome
from layergraft.commands.study.study_file import Budget, MeasuredArm, Trial
from layergraft.config.check import dotted_text
from layergraft.runs.readable import counted, duration
from layergraft.runs.report.section import Table


def differences_title(outcome: Outcome) -> str:
    """What is subtracted from what."""
    return outcome.words.differences.format(outcome.title_of(outcome.reference))


def differences_table(outcome: Outcome, budget: Budget) -> Table:
    """Every difference from the reference, mean over the numbers of shots."""
    rows = [
        [
            outcome.title_of(outcome.other(row)),
            signed(row.difference),
            *p_values(row.difference),
            str(len(row.difference.seeds)),
            seeds_text(row.difference),
        ]
        for row in outcome.differences
        if (row.budget, row.column) == (budget, MEAN)
    ]
    return Table(
        title=f"{differences_title(outcome)}, {outcome.words.at[budget]}",
        columns=["", "difference [95 % interval]", "p", "p (Holm)", "seeds", DECIDE],
        rows=rows,
        note=f"Points of accuracy, mean of the shots, paired by pre-training seed; Holm-corrected for the {len(rows)} "
        f"rows of this table. {DECIDE_NOTE}",
    )


def accuracy_table(outcome: Outcome, budget: Budget) -> Table:
    """Every arm of a comparison and every number of labels."""
    study = outcome.measured
    columns = [*study.columns, MEAN]
    lost = "Seeds that diverged are in no mean. " if any(arm.diverged for arm in study.arms) else ""
    rows = []
    for arm in study.taking_part(budget):
        cells = [spread(outcome.accuracy(arm.name, column)) or "–" * bool(arm.diverged) for column in columns]
        rows.append([shown(outcome, arm), *cells, seeds_of(arm), _four_digits(str(arm.flops / 1e12))])
    averaged = "each seed's random splits were averaged first. " if study.labelled else ""
    measured = (
        "kNN takes all labels; the mean is that of the numbers of shots. "
        if study.labelled
        else "Of views of single held-out images, by which nothing was chosen with the same seed; shots are views of "
        "each image. "
    )
    return Table(
        title=f"Top-1 accuracy (%), {outcome.words.at[budget]}",
        columns=["", *map(column_name, columns), "seeds", "TFLOP"],
        rows=rows,
        note=f"Mean ± half of the 95 % interval over pre-training seeds; {averaged}{lost}{measured}"
        "TFLOP: 10¹² floating-point operations of all stages, counted.",
    )


def _settings(trial: Trial) -> str:
    return ", ".join(f"{key} {_four_digits(value)}" for key, value in dotted_text(trial.settings).items())


def arms_table(outcome: Outcome) -> Table:
    """What each arm is, and what its search chose."""
    rows = []
    for arm in outcome.measured.arms:
        stages = ", then ".join(f"{s['objective']}, {s['epochs']:.3g} epochs" for s in arm.stages)
        chosen = next((trial for trial in arm.search if trial.chosen), None)
        settings = "" if chosen is None else _settings(chosen)
        held_out = arm.held_out(outcome.measured.common_seeds)
        reached = "" if held_out is None else f"{held_out:.2f}"
        rows.append([shown_apart(outcome, arm), stages or "untrained", arm.plan, settings, reached])
    return Table(
        title="The arms, and what their search chose",
        columns=["", "stages", "plan", "chosen settings", "held-out accuracy (%)"],
        rows=rows,
        note=f"Held-out accuracy: on {outcome.measured.judged}, mean of the shots, over the seeds that all arms have. "
        + (outcome.words.chosen if outcome.measured.labelled else ""),
    )


def search_table(outcome: Outcome) -> Table:
    """Every trial of every arm."""
    rows = [
        [
            arm.title,
            _settings(trial),
            "diverged" if trial.diverged else f"{trial.holdout:.2f}",
            "chosen" if trial.chosen else "",
        ]
        for arm in outcome.measured.searched
        for trial in arm.search
    ]
    note = f"Held-out accuracy: on {outcome.measured.judged}."
    return Table(title="All trials", columns=["", "settings", "held-out accuracy (%)", ""], rows=rows, note=note)


def facts_table(outcome: Outcome) -> Table:
    """Command, commit, machine, duration, images and protocol."""
    study, machine = outcome.measured, outcome.measured.machine
    gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
    facts = {
        "command": study.command,
        "commit": study.commit or "not known",
        "duration": duration(study.seconds),
        "machine": f"{machine['cpu']}, {counted(machine['cores'], 'core')}, "
        f"{counted(machine['threads'], 'thread')}{gpu}",
        "versions": ", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
        "images": study.source,
        **outcome.facts,
        "seeds": ", ".join(map(str, study.seeds)),
    }
    facts |= {f"protocol: {key}": value for key, value in dotted_text(study.protocol).items()}
    return Table(title="Machine, command and protocol", columns=["", ""], rows=[[k, v] for k, v in facts.items()])


def seeds_of(arm: MeasuredArm) -> str:
    """How many seeds an arm's means are of: `3`, or `2 of 3` where one diverged."""
    trained = str(len(arm.seeds))
    return f"{trained} of {len(arm.seeds) + len(arm.diverged)}" if arm.diverged else trained


def shown(outcome: Outcome, arm: MeasuredArm) -> str:
    """The arm's title, marked where it is the reference."""
    return f"{arm.title} ({outcome.words.mark})" if arm.base == outcome.reference else arm.title


def shown_apart(outcome: Outcome, arm: MeasuredArm) -> str:
    """The same, where both lengths of an arm stand side by side."""
    apart = arm.name != arm.base
    return f"{shown(outcome, arm)}, {outcome.words.at['compute']}" if apart else shown(outcome, arm)


def _four_digits(value: str) -> str:
    """A text, in four digits where it is a number."""
    try:
        number = float(value)
    except ValueError:
        return value
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"
