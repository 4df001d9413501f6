"""report.html of an ablation: what is better than the reference on top, then what that rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layergraft.commands.ablate.outcome import AblationOutcome, sentence
from layergraft.commands.study.cost import SAME
from layergraft.commands.study.figures import compute_figure, shots_figure
from layergraft.commands.study.formatting import MEAN, signed
from layergraft.commands.study.ranking import ranking_section
from layergraft.commands.study.sections import difference_blocks, made_section, search_blocks
from layergraft.commands.study.study_file import MeasuredArm
from layergraft.commands.study.tables import accuracy_table, shown_apart
from layergraft.runs.readable import counted, duration
from layergraft.runs.report.page import write_page
from layergraft.runs.report.section import Notes, Section, Tile, Tiles

INTRO = (
    "Every arm had the same search on held-out images and is trained with every seed; test images were classified once "
    "per arm and seed. The unit of every interval is the seed."
)
LABEL_FREE = (
    "Rates and the best arm were chosen without labels: by how well single held-out images are recognised by few views "
    "of each. "
)
UNLABELLED = (
    "No label was used. Every arm had the same search and is trained with every seed; accuracy is that of recognising "
    "single images by few views of each: of each seed, one half of the held-out images chose, the tables are of the "
    "other half. The unit of every interval is the seed."
)


def _answer(outcome: AblationOutcome) -> Section:
    study = outcome.study
    tiles = []
    best = next(arm for arm in study.arms if arm.name == study.best)
    accuracy = outcome.accuracy(best.name, MEAN)
    if accuracy is not None:
        tiles.append(
            Tile(label="Best on held-out images", value=best.title, note=f"{accuracy.mean:.1f} % on {study.tested}")
        )
    for row in outcome.rows(study.budgets[0]):
        if row.arm == best.name:
            note = f"points over {outcome.title_of(outcome.reference)}, 95 % interval over seeds"
            tiles.append(Tile(label="Its difference", value=signed(row.difference), note=note))
    lines = [f"{outcome.words.at[budget].capitalize()}: {sentence(outcome, budget)}" for budget in study.budgets]
    lost = diverged(outcome)
    warning = [Notes(lines=lost, warning=True)] if lost else []
    return Section(
        name="answer",
        title="What is better?",
        intro=(LABEL_FREE if study.choose == "label_free" else "") + INTRO if study.labelled else UNLABELLED,
        blocks=[Tiles(tiles=tiles), Notes(lines=lines), *warning],
    )


def diverged(outcome: AblationOutcome) -> list[str]:
    """What seeds have no numbers, and why; the first reason of each arm stands for all."""
    lines = []
    for arm in (arm for arm in outcome.study.arms if arm.diverged):
        which = f"seed{'s' if len(arm.diverged) > 1 else ''} {', '.join(arm.diverged)}"
        title, reason = shown_apart(outcome, arm), next(iter(arm.diverged.values()))
        of = counted(len(arm.seeds) + len(arm.diverged), "seed")
        lines.append(
            f"{title}: {len(arm.diverged)} of {of} diverged ({which}). {reason} "
            "Its means and differences are those of the others; where the best arm is chosen, a seed that "
            "diverged counts as 0 %."
        )
    return lines


def _accuracy(outcome: AblationOutcome) -> Section:
    blocks: list[Any] = [accuracy_table(outcome, budget) for budget in outcome.study.budgets]
    for budget in outcome.study.budgets:
        blocks += difference_blocks(outcome, budget)
    shots = ", ".join(outcome.study.few_shots)
    operations = [arm.flops for arm in outcome.study.arms if arm.flops]
    over_compute = [compute_figure(outcome)] if max(operations) > (1 + SAME) * min(operations) else []
    return Section(
        name="accuracy",
        title="How few labels?" if outcome.study.labelled else "How few views?",
        intro=f"Frozen features of test images, with {shots} labelled images of each class."
        if outcome.study.labelled
        else f"Frozen features of views of held-out images, with {shots} views of each image as examples.",
        blocks=[*blocks, shots_figure(outcome), *over_compute],
    )


def edges(arms: list[MeasuredArm]) -> list[str]:
    """Arms whose search ended at its edge: a wider one might move them up."""
    lines = []
    for arm in arms:
        factors = [float(trial.settings["factor"]) for trial in arm.search]
        chosen = next((float(trial.settings["factor"]) for trial in arm.search if trial.chosen), None)
        if arm.search and all(trial.diverged for trial in arm.search):
            lines.append(f"{arm.title}: every rate that was tried diverged: widen `search` below {min(factors):g}.")
        elif len(factors) > 1 and chosen in (min(factors), max(factors)):
            side = "smallest" if chosen == min(factors) else "largest"
            lines.append(f"{arm.title} took the {side} rate that was tried: widen `search`.")
    return lines


def _search(outcome: AblationOutcome) -> Section:
    lines = edges(outcome.study.searched)
    notes = [Notes(lines=lines, warning=True)] if lines else []
    return Section(
        name="search",
        title="The arms and their search",
        intro="Learning rates of each arm's last stage, judged on held-out images with the first seed.",
        blocks=[*notes, *search_blocks(outcome)],
    )


def write_ablation_page(outcome: AblationOutcome, out: Path, figures: Path | None = None) -> Path:
    """Build the page.

    Args:
        outcome: of a study.
        out: the file.
        figures: see `runs.report.page.write_page`.
    """
    study = outcome.study
    subtitle = (
        f"{study.recipe}, {study.source}, {len(study.seeds)} pre-training seeds, {duration(study.seconds)}, "
        f"commit {(study.commit or 'not known')[:12]}"
    )
    sections = [_answer(outcome), _accuracy(outcome), ranking_section(study), _search(outcome), made_section(outcome)]
    return write_page(
        title="Ablation",
        subtitles=[("", subtitle)],
        sections=[section for section in sections if section is not None],
        out=out,
        figures=figures,
    )
