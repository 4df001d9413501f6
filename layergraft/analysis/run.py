"""Build what the analyses look at, and carry them out one after another."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from layergraft.analysis.fitted import FittedStage, fitted_stages
from layergraft.analysis.registry import ANALYSES
from layergraft.analysis.subject import NotApplicable, Subject
from layergraft.config.analysis import AnalysisName
from layergraft.config.data import HoldoutBy
from layergraft.config.loading import read_run_recipe
from layergraft.data.first_look import look_at, remarks_on_files
from layergraft.data.reading import settle
from layergraft.data.sources.holdout import split_holdout
from layergraft.data.sources.label_file import read_labels
from layergraft.data.sources.open import open_source
from layergraft.encoders.checkpoint import load_encoder
from layergraft.encoders.products import Products, products_of_run
from layergraft.encoders.provenance import are_the_runs
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError, nearest
from layergraft.evaluation.features import extract_all, features_named
from layergraft.runs.announce import announce
from layergraft.runs.findings import Entry, write_analysis
from layergraft.runs.interruption import check
from layergraft.runs.layout import encoder_name, run_directory, snapshot_of
from layergraft.runs.readable import counted, duration

CHECKED = 16  # images whose features must be finite before anything is computed
BLOCK_CHOICE: AnalysisName = "saliency"  # the analysis that explains the block of `Subject.block`
BANK_SHARE = 0.2  # held out from the bank where no run says which images trained nothing


def check_names(what: list[str]) -> list[AnalysisName]:
    """The analyses that are asked for; `all` is every one.

    Raises:
        UserError: there is no such analysis.
    """
    for name in what:
        if name != "all" and name not in ANALYSES:
            raise UserError(f"There is no analysis {name!r}.", nearest(name, [*ANALYSES, "all"]))
    wanted = dict.fromkeys(what)
    return list(ANALYSES) if "all" in what else [cast(AnalysisName, name) for name in wanted]


def build_subject(encoder: str, against: list[str], data: str, labels: str | None = None) -> Subject:
    """Load what `layergraft.analyze` names.

    Where the images are those of the encoder's run, it is shown the run's held-out images, and the others are the bank.
    Where a file has labels of some images, bank and queries are these; the labels of the source itself do not count.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoders: dict[str, Encoder] = {}
    for named in (encoder, *against):
        name = encoder_name(named)
        encoders[name if name not in encoders else named] = load_encoder(named).requires_grad_(False).to(device)
    run_and_stage = run_directory(encoder)
    first = next(iter(encoders.values()))
    source = settle(open_source(data), first.in_chans, announce, first.reads, repr(encoder))
    for name, other in list(encoders.items())[1:]:
        source = settle(source, first.in_chans, announce, other.reads, repr(name))
    announce(*source.remarks, *remarks_on_files(look_at(source, first.in_chans), source))
    share: int | float = BANK_SHARE
    by: HoldoutBy = "proportion"
    seed, own_images = 0, False
    multiplied: Products = "torch"
    stages: list[FittedStage] = []
    stage: str | None = None
    if run_and_stage is not None:
        run, stage = run_and_stage
        recipe = read_run_recipe(run)
        stages, stage = fitted_stages(run, recipe), stage or list(recipe.stages)[-1]
        if (snapshot := snapshot_of(encoder)) is not None:  # with the heads of that time
            stages = [replace(fitted, directory=snapshot) if fitted.name == stage else fitted for fitted in stages]
        multiplied = recipe.engine.products
        own_images = are_the_runs(source, encoder, recipe)
        if own_images:
            share, seed, by = recipe.data.holdout, recipe.seed, recipe.data.holdout_by
    bank, queries = split_holdout(source, share, seed, by)
    held_out = own_images and len(queries) > 0
    images = queries if held_out else source
    if labels is not None:
        labelled = read_labels(labels, source).labelled
        images = replace(images, labels=None, classes=[])
        bank, queries = (
            tuple(labelled.subset(np.intersect1d(part.keys, labelled.keys)) for part in (bank, queries))
            if held_out
            else split_holdout(labelled, share, seed, by)
        )
    return Subject(
        encoders=encoders,
        images=images,
        bank=bank,
        queries=queries,
        stages=stages,
        stage=stage,
        seed=seed,
        held_out=held_out,
        products=multiplied,
    )


def run_analyses(
    subject: Subject, what: Sequence[AnalysisName], data: str, file: Path, say: Callable[[str], None]
) -> tuple[list[Entry], dict[str, str]]:
    """Carry out analyses; each is kept as soon as it is done.

    Args:
        subject: what is analysed.
        what: names of analyses.
        data: the images' SOURCE.
        file: analysis.json.
        say: called with a sentence for each.

    Returns:
        (what was found, analysis -> why it says nothing).

    Raises:
        UserError: an encoder gives features that are not finite.
    """
    few = subject.sample(CHECKED)
    multiplied = products_of_run(subject.products, subject.encoder.device)
    for name, encoder in subject.encoders.items():
        with features_named(name), multiplied():
            extract_all(encoder, few, ["cls"])
    entries: list[Entry] = []
    skipped: dict[str, str] = {}
    for name in what:
        check()
        began = time.perf_counter()
        try:
            with multiplied():
                findings = ANALYSES[name](subject)
        except NotApplicable as reason:
            skipped[name] = str(reason)
            say(f"{name}: skipped, {reason}.")
            continue
        seconds = time.perf_counter() - began
        names = list(subject.encoders)
        entries.append(
            Entry(
                analysis=name,
                encoder=names[0],
                against=" ".join(names[1:]) or None if findings.compares else None,
                data=data,
                block=subject.block,
                seconds=round(seconds, 2),
                numbers=_finite(findings.numbers),
                notes=findings.notes,
                figures=[replace(figure, data=_finite(figure.data)) for figure in findings.figures],
                snippet=findings.snippet,
            )
        )
        write_analysis(file, entries[-1:])
        say(f"{name}: {duration(seconds)}." + (f"\n{findings.snippet}" if findings.snippet else ""))
    bad = list(subject.readable.values()).count(False)
    if bad:
        say(f"{counted(bad, 'unreadable image')} left out.")
    return entries, skipped


def _finite(content: Any) -> Any:
    """Dicts and lists with None for a number that is not finite: JSON has none, and the page would draw no figure."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
