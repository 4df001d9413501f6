"""report.html of a study: verdicts on top, then what they rest on."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from layergraft.commands.reproduce.figures import conflict_figures
from layergraft.commands.reproduce.outcome import Claims
from layergraft.commands.reproduce.separations import separations_table
from layergraft.commands.reproduce.tables import (
    bar_sentence,
    bar_table,
    conflict_during_table,
    parts_table,
    trend_sentence,
)
from layergraft.commands.reproduce.verdicts import Claim, Decision
from layergraft.commands.study.figures import compute_figure
from layergraft.commands.study.formatting import AT
from layergraft.commands.study.ranking import ranking_section
from layergraft.commands.study.sections import difference_blocks, made_section, search_blocks
from layergraft.commands.study.study_file import BUDGETS
from layergraft.commands.study.tables import accuracy_table
from layergraft.runs.readable import duration
from layergraft.runs.report.page import write_page
from layergraft.runs.report.section import Judgement, Notes, Section, Verdict

WORDS: dict[bool | None, Decision] = {True: "holds", False: "does not hold", None: "undecided"}
RULE = (
    "A part holds if its 95 % interval lies on the claimed side of zero and its p-value, corrected for the parts of "
    "its claim (Holm), is below 0.05; it does not hold if the same is true of the other side. A claim holds if all its "
    "parts hold. Accuracy is the mean over the numbers of shots; arms are paired by pre-training seed."
)


def _bars(claims: Claims) -> list[Verdict]:
    return [
        Verdict(
            title=f"The graft chosen on held-out images beats both parents at every number of shots, {AT[bar.budget]}",
            judgements=[
                Judgement(
                    word=WORDS[bar.beats_both],
                    label=claims.title_of(bar.graft),
                    text=bar_sentence(claims, bar),
                )
            ],
            tables=[bar_table(claims, bar)],
        )
        for bar in claims.graft_vs_parents
    ]


def _judgement(claim: Claim) -> Judgement:
    label = AT[claim.budget].capitalize() if claim.budget else "In the multi-task network"
    return Judgement(word=claim.verdict, label=label, text=claim.reason)


def _verdicts(claims: Claims) -> Section:
    cards = []
    for number, group in groupby(sorted(claims.claims, key=lambda claim: claim.number), lambda claim: claim.number):
        same_claim = list(group)
        title = f"{number}. {same_claim[0].statement}"
        judgements, tables = map(_judgement, same_claim), map(parts_table, same_claim)
        cards.append(Verdict(title=title, judgements=list(judgements), tables=list(tables)))
    return Section(
        name="verdicts", title="The paper's claims, at this scale", intro=RULE, blocks=[*_bars(claims), *cards]
    )


def _accuracy(claims: Claims) -> Section:
    differences = [block for budget in BUDGETS for block in difference_blocks(claims, budget)]
    return Section(
        name="accuracy",
        title="How few labels?",
        intro="Frozen features of test images, which were touched once per arm and seed. Equal contrastive epochs: as "
        "many epochs of contrastive learning for every arm, whatever else it needs. Equal compute: as many counted "
        "operations in all.",
        blocks=[*(accuracy_table(claims, budget) for budget in BUDGETS), *differences, compute_figure(claims)],
    )


def _conflict(claims: Claims) -> Section | None:
    figures = conflict_figures(claims)
    if not figures:
        return None
    lines = [] if claims.trend is None else [trend_sentence(claims.trend)]
    during = [conflict_during_table(claims)] if claims.conflict_during else []
    return Section(
        name="conflict",
        title="Do the two losses fight?",
        intro="Gradients of the masked-image and of the contrastive loss in the multi-task network, image by image.",
        blocks=[*figures, Notes(lines=lines), *during],
    )


def _separations(claims: Claims) -> Section | None:
    if not claims.separations:
        return None
    return Section(
        name="separations",
        title="What is VICReg's lead made of?",
        intro="The graft with VICReg differs from that with MoCo v3 in several things at once. Each row changes one.",
        blocks=[separations_table(claims.separations)],
    )


def _search(claims: Claims) -> Section:
    return Section(
        name="search",
        title="The arms and their search",
        intro="Every arm got the same search, judged on held-out images with the first seed.",
        blocks=search_blocks(claims),
    )


def write_claims_page(claims: Claims, out: Path, figures: Path | None = None) -> Path:
    """Build the page.

    Args:
        claims: of a study.
        out: the file.
        figures: see `runs.report.page.write_page`.
    """
    study = claims.study
    sections = [_verdicts(claims), _accuracy(claims), _separations(claims), _conflict(claims)]
    sections += [ranking_section(study), _search(claims), made_section(claims)]
    subtitle = (
        f"{study.scale}, {study.source}, {len(study.seeds)} pre-training seeds, {duration(study.seconds)}, "
        f"commit {(study.commit or 'not known')[:12]}"
        + "".join(f", {key} {value}" for key, value in study.changes.items())
    )
    return write_page(
        title="Layer grafting: the claims",
        subtitles=[("", subtitle)],
        sections=[section for section in sections if section is not None],
        out=out,
        figures=figures,
    )
