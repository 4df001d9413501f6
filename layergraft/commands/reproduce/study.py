"""`layergraft reproduce`: the study of the claims, prepared: its arms, its scales, and what is said of its outcome."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from layergraft.commands.reproduce.claims import FILE as CLAIMS
from layergraft.commands.reproduce.claims import write_claims
from layergraft.commands.reproduce.claims_study import ClaimsStudy, claims_costs
from layergraft.commands.reproduce.scales import HOLDOUT_BY, SCALES, Scale
from layergraft.commands.reproduce.study_file import MeasuredClaims
from layergraft.commands.study.carry_out import Say, alone, carry_out, check_numbers, default_jobs, read_outcomes
from layergraft.commands.study.directory import claim, images_now, origin, refuse_another, with_possible_shots
from layergraft.commands.study.jobs import JobOutcome
from layergraft.commands.study.pool import LOG, Pool
from layergraft.commands.study.statistics import distributions
from layergraft.commands.study.study_file import FILE, as_study, read_study
from layergraft.errors import UserError
from layergraft.runs.announce import announce
from layergraft.runs.atomic import write_text
from layergraft.runs.interruption import SignalGuard, check
from layergraft.runs.lock import waited_for


def reproduce_study(scale_name: str, data: str | None, seeds: int, out: Path, jobs: int | None) -> Path:
    """Train, search and measure every arm; goes on where an earlier start ended, beside others that do the same.

    Args:
        scale_name: one of `SCALES`.
        data: the images; None are the scale's own.
        seeds: how many pre-training seeds.
        out: directory of the study.
        jobs: how many jobs at a time; None is one a core, or one on a GPU.

    Returns:
        `study.json`; `claims.json` and `report.html` lie beside it.

    Raises:
        Stopped: a signal came; everything is saved.
        UserError: images or directory do not serve.
    """
    check_numbers(seeds, jobs)
    distributions()  # before hours of training
    source = data or SCALES[scale_name].source
    if source is None:
        raise UserError(f"Scale {scale_name!r} has no images of its own.", "Give --data FOLDER.")
    command = f"layergraft reproduce --scale {scale_name}"
    if source != SCALES[scale_name].source:
        command += f" --data {source}"
    settings = {"scale": scale_name, "source": source}
    refuse_another(out, settings)
    with SignalGuard(), alone(), Pool(jobs or default_jobs(), out / LOG) as pool:
        scale, images = scale_for(SCALES[scale_name], source, announce)
        check()
        claim(out, settings, images_now(source), announce)
        announce(f"Counting operations: {images} images of {source} train.")
        study = ClaimsStudy(scale, source, list(range(seeds)), out, claims_costs(scale, source, images))
        outcomes: dict[str, JobOutcome] = {}
        read_outcomes(study, outcomes)
        check()
        if _is_finished(study, outcomes):
            announce(f"The study in {out} is finished; nothing to do. Its claims: {out / CLAIMS}")
            return out / FILE
        found = carry_out(study, outcomes, pool, announce)
        head = {
            "scale": scale_name,
            "source": source,
            "seeds": study.seeds,
            "command": f"{command} --seeds {seeds} --out {out}",
            "seconds": found.seconds,
        }
        with waited_for(out, announce):
            record = head | origin() | study.record(found.outcomes)
            text = json.dumps(record, indent=1)
            write_text(out / FILE, text + "\n")
            page = write_claims(as_study(json.loads(text), MeasuredClaims), out)
    announce(f"Study:  {out / FILE}\nClaims: {out / CLAIMS}\nReport: {page}")
    return out / FILE


def scale_for(scale: Scale, source: str, say: Say) -> tuple[Scale, int]:
    """The scale with the numbers of shots that there are images for, and how many images train.

    Raises:
        UserError: there are no labels, no test images, or classes with a single image.
    """
    evaluate, images = with_possible_shots(scale.evaluate, source, scale.holdout, HOLDOUT_BY, say)
    return replace(scale, evaluate=evaluate), images


def _is_finished(study: ClaimsStudy, outcomes: dict[str, JobOutcome]) -> bool:
    """Whether an earlier start has written what this one would."""
    written = (study.out / FILE).is_file() and (study.out / CLAIMS).is_file()
    if not written or next(study.due(outcomes), None) is not None:
        return False
    return read_study(study.out, MeasuredClaims).seeds == study.seeds
