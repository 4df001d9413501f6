"""`layergraft reproduce`: the study of the claims, prepared: its arms, its scales, and what is said of its outcome."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import msgspec

from layergraft.commands.reproduce.arms import ARMS, BUDGET
from layergraft.commands.reproduce.claims import FILE as CLAIMS
from layergraft.commands.reproduce.claims import read_claims, write_claims
from layergraft.commands.reproduce.claims_study import ClaimsStudy, claims_costs
from layergraft.commands.reproduce.recipes import arm_recipe
from layergraft.commands.reproduce.scales import HOLDOUT_BY, SCALES, Scale
from layergraft.commands.reproduce.study_file import MeasuredClaims
from layergraft.commands.reproduce.tables import pilot_table
from layergraft.commands.study.carry_out import Say, alone, carry_out, check_numbers, default_jobs, read_outcomes
from layergraft.commands.study.cost_lines import cost_lines
from layergraft.commands.study.directory import claim, images_now, options, origin, refuse_another, with_possible_shots
from layergraft.commands.study.jobs import JobOutcome
from layergraft.commands.study.pool import LOG, Pool
from layergraft.commands.study.precision import precision_lines, settled_mark
from layergraft.commands.study.settings import contrastive_view
from layergraft.commands.study.statistics import check_scores, distributions
from layergraft.commands.study.study_file import FILE, as_study, read_study
from layergraft.config.loading import load_recipe
from layergraft.errors import UserError
from layergraft.runs.announce import announce
from layergraft.runs.atomic import write_text
from layergraft.runs.interruption import SignalGuard, check
from layergraft.runs.lock import waited_for

_OF_ALL = ("engine.", "encoder.")  # beginnings of the keys that every arm has alike
_TAKEN = ("engine.keep", "encoder.depth")  # the study keeps one checkpoint; plans and heads are fitted to the depth


def reproduce_study(
    scale_name: str,
    data: str | None,
    changes: Mapping[str, Any],
    seeds: int,
    out: Path,
    jobs: int | None,
    *,
    costs: bool = False,
) -> Path:
    """Train, search and measure every arm; goes on where an earlier start ended, beside others that do the same.

    Args:
        scale_name: one of `SCALES`.
        data: the images; None are the scale's own.
        changes: dotted recipe key -> value, for all arms: of `engine` and `encoder`.
        seeds: how many pre-training seeds.
        out: directory of the study.
        jobs: how many jobs at a time; None is one a core, or one on a GPU.
        costs: only say what it would cost.

    Returns:
        `study.json`; `claims.json` and `report.html` lie beside it.

    Raises:
        Stopped: a signal came; everything is saved.
        UserError: images or directory do not serve.
    """
    check_numbers(seeds, jobs)
    distributions()  # before hours of training
    if SCALES[scale_name].scores:
        check_scores()
    source = data or SCALES[scale_name].source
    if source is None:
        raise UserError(f"Scale {scale_name!r} has no images of its own.", "Give --data FOLDER.")
    changes = _of_all(changes)
    command = _command(scale_name, source, changes, seeds, out)
    working = nullcontext() if costs else Pool(jobs or default_jobs(), out / LOG)
    with SignalGuard(), alone(), working as pool:
        precision = settled_mark([load_recipe("fashion_paper", changes)], out)
        changes |= {"engine.precision": precision["precision"]} if precision else {}
        settings = {"scale": scale_name, "source": source} | ({"changes": changes} if changes else {}) | precision
        refuse_another(out, settings)
        scale, images = scale_for(replace(SCALES[scale_name], changes=changes), source, announce)
        check()
        announce(*precision_lines(precision), f"Counting operations: {images} images of {source} train.")
        study = ClaimsStudy(scale, source, list(range(seeds)), out, claims_costs(scale, source, images))
        outcomes: dict[str, JobOutcome] = {}
        read_outcomes(study, outcomes)
        check()
        announce(*cost_lines(study, BUDGET, outcomes, jobs or default_jobs()))
        if pool is None:
            announce(*pilot_lines(out))
            return out / FILE
        claim(out, settings, images_now(source), announce)
        if _is_finished(study, outcomes):
            announce(f"The study in {out} is finished; nothing to do. Its claims: {out / CLAIMS}")
            return out / FILE
        found = carry_out(study, outcomes, pool, announce)
        head = {
            "scale": scale_name,
            "source": source,
            "seeds": study.seeds,
            "command": command,
            "seconds": found.seconds,
        }
        with waited_for(out, announce):
            record = head | origin() | study.record(found.outcomes)
            text = json.dumps(record, indent=1)
            write_text(out / FILE, text + "\n")
            page = write_claims(as_study(json.loads(text), MeasuredClaims), out)
    announce(f"Study:  {out / FILE}\nClaims: {out / CLAIMS}\nReport: {page}")
    return out / FILE


def _of_all(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The keys and values of all arms as `settings.json` has them, whether words, tuples or numbers were given."""
    for key in changes:
        if not key.startswith(_OF_ALL):
            raise UserError(
                f"`{key}` is not the same for all arms of the claims.",
                "Keys of `engine` and `encoder` are; `layergraft ablate` compares recipes of your own.",
            )
        if key in _TAKEN:
            raise UserError(f"`{key}` is the study's own.", "Leave it out.")
    recipe = msgspec.json.decode(msgspec.json.encode(load_recipe("fashion_paper", changes)))
    keys = [key.replace("-", "_") for key in changes]
    return {key: reduce(getitem, key.split("."), recipe) for key in keys}


def _command(scale: str, source: str, changes: Mapping[str, Any], seeds: int, out: Path) -> str:
    words = ["layergraft", "reproduce", "--scale", scale]
    words += [] if source == SCALES[scale].source else ["--data", source]
    words += options(changes)
    return shlex.join([*words, "--seeds", str(seeds), "--out", str(out)])


def pilot_lines(out: Path) -> list[str]:
    """What would decide the claims that a study has left open, taken as the pilot of a larger one; none before it ends.

    Args:
        out: directory of the study.
    """
    if not (out / CLAIMS).is_file():
        return []
    table = pilot_table(read_claims(out / CLAIMS))
    if not table.rows:
        return ["Every claim is decided."]
    rows = [
        f"  claim {claim}, {hypothesis}: {had} seeds, {needed} to decide: {more} of one core"
        for claim, hypothesis, had, needed, more in table.rows
    ]
    return ["With what is measured as the pilot of a larger study:", *rows]


def scale_for(scale: Scale, source: str, say: Say) -> tuple[Scale, int]:
    """The scale with the numbers of shots that there are images for, and how many images train.

    Raises:
        UserError: there are no labels, no test images, or classes with a single image.
    """
    evaluate, images = with_possible_shots(scale.evaluate, source, scale.holdout, HOLDOUT_BY, say)
    contrast = arm_recipe(ARMS["scratch"], scale, source, 0)
    return replace(scale, evaluate=evaluate, view=contrastive_view([contrast])), images


def _is_finished(study: ClaimsStudy, outcomes: dict[str, JobOutcome]) -> bool:
    """Whether an earlier start has written what this one would."""
    written = (study.out / FILE).is_file() and (study.out / CLAIMS).is_file()
    if not written or next(study.due(outcomes), None) is not None:
        return False
    return read_study(study.out, MeasuredClaims).seeds == study.seeds
