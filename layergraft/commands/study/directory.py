"""The directory of a study: whose it is, what its images allow, and where its numbers came from."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs

from layergraft.commands.study.accuracy import few_views, test_source
from layergraft.config import EvaluateConfig
from layergraft.config.data import HoldoutBy
from layergraft.data.sources.holdout import split_holdout
from layergraft.data.sources.open import default_test_source, open_source
from layergraft.errors import UserError
from layergraft.evaluation.contents import results_identity
from layergraft.evaluation.single_images import TASKS, USUAL_WAYS
from layergraft.evaluation.splits import draw_splits
from layergraft.runs.atomic import write_text
from layergraft.runs.json_files import read_json
from layergraft.runs.lock import waited_for
from layergraft.runs.readable import counted
from layergraft.runs.resume import is_unused
from layergraft.training.launch import machine

SETTINGS = "settings.json"
FEW_HELD_OUT = 2 * TASKS * USUAL_WAYS  # below it, single images fill fewer tasks than usual
# Key of settings.json that tells of the images -> what happened where it is another.
_CHANGES = {"images": "files came or went", "contents": "files, masks or labels changed under the same names"}


def refuse_another(out: Path, settings: dict[str, Any]) -> None:
    """Find out whether the directory may be this study's; nothing is changed.

    Args:
        out: the directory.
        settings: what makes it this study.

    Raises:
        UserError: it holds something else.
    """
    file = out / SETTINGS
    if file.is_file():
        found = {key: value for key, value in read_json(file).items() if key not in _CHANGES}
        if found != settings:
            raise UserError(f"{str(out)!r} holds another study: {json.dumps(found)}.", "Use another --out.")
    elif not is_unused(out):
        raise UserError(f"{str(out)!r} exists and is no study.", "Use another --out. Nothing was changed.")


def claim(out: Path, settings: dict[str, Any], images: dict[str, str], say: Callable[[str], None]) -> None:
    """Make the directory the study's own, beside other processes that may do the same.

    Args:
        out: the directory.
        settings: what makes it this study.
        images: `images_now`; studies of earlier versions take those that there are now.
        say: called with a sentence where the file system knows no locks.

    Raises:
        UserError: it holds something else, or what was found so far is of other images.
    """
    with waited_for(out, say):
        refuse_another(out, settings)
        known = read_json(out / SETTINGS) if (out / SETTINGS).is_file() else {}
        for key, now in images.items():
            if known.get(key, now) != now:
                raise UserError(
                    f"The images are not those that the study in {str(out)!r} began with: {_CHANGES[key]}.",
                    "Restore them, or use another --out. Nothing was changed.",
                )
        if known.keys() != (settings | images).keys():
            write_text(out / SETTINGS, json.dumps(settings | images) + "\n")


def images_now(source: str, *, labelled: bool = True) -> dict[str, str]:
    """What tells a study's images, and those that it tests on, from others: their names, and all that they hold."""
    opened = [open_source(spec) for spec in ((source, test_source(source)) if labelled else (source,))]
    return {
        "images": ", ".join(part.identity for part in opened),
        "contents": ", ".join(map(results_identity, opened)),
    }


def with_possible_shots(
    evaluate: EvaluateConfig, source: str, holdout: int | float, by: HoldoutBy, say: Callable[[str], None]
) -> tuple[EvaluateConfig, int]:
    """The measurements with the numbers of shots that there are images for, and how many images train.

    Raises:
        UserError: there are no labels, no test images, or classes with a single image.
    """
    train, _ = split_holdout(open_source(source), holdout, 0, by)
    open_source(test_source(source))
    fewest = int(np.bincount(train.selected_labels, minlength=len(train.classes)).min())
    shots = evaluate.frozen_shots
    possible = tuple(k for k in shots if not isinstance(k, int) or k <= fewest)
    if possible != shots:
        say(f"The smallest class has {fewest} training images: no more shots than these are measured.")
    draw_splits(train, possible, 1)
    if not any(isinstance(k, int) for k in possible):
        raise UserError(f"{source!r} has a class without training images.", "Every class needs some.")
    return structs.replace(evaluate, shots=possible), len(train)


def is_labelled(source: str) -> bool:
    """Whether a study's images have labels, and test images beside them."""
    return open_source(source).labels is not None and default_test_source(source) is not None


def with_possible_views(
    evaluate: EvaluateConfig, source: str, holdout: int | float, by: HoldoutBy, say: Callable[[str], None]
) -> tuple[EvaluateConfig, int]:
    """The measurements without labels: numbers of views in place of shots; and how many images train.

    Raises:
        UserError: none of the numbers of shots is one of views, or too few images are held out.
    """
    train, held = split_holdout(open_source(source), holdout, 0, by)
    views = few_views(evaluate)
    if not views:
        raise UserError("Single images are recognised by few views of each.", "Give --evaluate.shots 1 5.")
    if len(held) < 4:
        raise UserError(
            f"Only {counted(len(held), 'image')} of {source!r} would be held out, and all choices are made on them.",
            "Hold out more (--data.holdout 0.2; a fifth of the images is the most).",
        )
    if len(held) < FEW_HELD_OUT:
        say(f"Only {len(held)} images are held out: choices on so few are rough; {FEW_HELD_OUT} fill all tasks.")
    return structs.replace(evaluate, protocols=("logistic",), shots=views), len(train)


def options(changes: Mapping[str, Any]) -> list[str]:
    """Keys and values as words of a command line that sets them again."""
    words = []
    for key, value in changes.items():
        parts = value if isinstance(value, list | tuple) and value else [value]
        words += [f"--{key}", *(part if isinstance(part, str) else json.dumps(part, default=str) for part in parts)]
    return words


def origin() -> dict[str, Any]:
    """What numbers were made with: commit of the package, and the machine as a job sees it."""
    import torch

    return {"commit": commit(), "machine": machine() | ({} if torch.cuda.is_available() else {"threads": 1})}


def commit() -> str | None:
    """The commit of the package, where it runs from a checkout."""
    root = Path(__file__).parents[3]
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    if not (root / ".git").exists():  # perhaps installed below a checkout of something else
        return None
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - fixed words
    except (OSError, subprocess.CalledProcessError):
        return None
