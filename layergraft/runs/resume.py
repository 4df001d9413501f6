"""Decide whether a run directory can be resumed with a recipe, and which keys may change on resume."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from layergraft.config.check import dotted
from layergraft.config.comments import Comments, read_comments, with_comments
from layergraft.config.loading import dump_recipe, held_out_by_class, read_run_recipe, says_how_it_held_out
from layergraft.config.recipe import Recipe
from layergraft.errors import UserError
from layergraft.runs.atomic import is_leftover, write_text
from layergraft.runs.lock import LOCK

Resume = Literal["auto", "never", "must"]
# What a run may go on with in another value: how it is carried out and watched, not what is learned. With them go
# the length of a stage that has not begun.
FREE_KEYS = (
    "data.workers",
    "data.max_bad",
    "data.cache",
    "engine.strategy",
    "engine.micro_batch",
    "engine.activation_checkpointing",
    "engine.compile",
    "engine.log_every",
    "engine.checkpoint_minutes",
    "engine.checkpoint_steps",
    "engine.keep",
    "engine.tracking",
    "engine.profile",
    "monitor.min_feature_std",
    "monitor.min_rankme",
    "evaluate",
    "analyze",
)
_LENGTH = ("epochs", "steps", "warmup_epochs", "warmup_steps")


def differing_keys(old: Recipe, new: Recipe) -> list[str]:
    """Dotted keys in which two recipes differ; two ways to write the same path do not."""
    a, b = dotted(msgspec.to_builtins(old)), dotted(msgspec.to_builtins(new))
    differing = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
    return [key for key in differing if not (_names_a_place(key) and _same_place(a.get(key), b.get(key)))]


def _is_free(key: str, begun: set[str]) -> bool:
    if any(key == free or key.startswith(free + ".") for free in FREE_KEYS):
        return True
    stage, _, rest = key.removeprefix("stages.").partition(".")
    return key.startswith("stages.") and rest in _LENGTH and stage not in begun


def _names_a_place(key: str) -> bool:
    """Whether a key's value can be the path of images or of an encoder."""
    return (
        key in ("data.source", "start")
        or re.match(r"stages\.[^.]+\.(branch$|plan\.(heads\.)?source(\.|$))", key) is not None
    )


def _same_place(old: Any, new: Any) -> bool:
    """Whether two values name the same file or folder, one of them relative, through a link or with `~`."""
    if not isinstance(old, str) or not isinstance(new, str):
        return False
    (old, _, old_options), (new, _, new_options) = old.partition("?"), new.partition("?")
    try:
        return old_options == new_options and os.path.samefile(os.path.expanduser(old), os.path.expanduser(new))
    except (OSError, ValueError):  # one of them is no path, or not there
        return False


def is_unused(out: Path) -> bool:
    """Whether a directory is not there, or holds at most what a start leaves that was killed before it had begun."""
    if not out.is_dir():
        return not out.exists()
    return all(entry.name in ("index", LOCK) or is_leftover(entry.name) for entry in out.iterdir())


def open_run(out: Path, recipe: Recipe, resume: Resume) -> bool:
    """Look whether an output directory may be used; True where it holds an earlier start of this very run.

    Raises:
        UserError: it holds something else, or `resume` forbids what would be done. Nothing is changed.
    """
    file = out / "recipe.yaml"
    if not file.is_file():
        if not is_unused(out):
            raise UserError(
                f"{str(out)!r} exists and is no run of layergraft.", "Use another --out. Nothing was changed."
            )
        if resume == "must":
            raise UserError(f"There is no run in {str(out)!r} to go on with.", "Check --out, or use --resume auto.")
        return False
    old = read_run_recipe(out)
    begun = {path.name.partition("-")[2] for path in out.glob("stages/*")}
    refused = [key for key in differing_keys(old, recipe) if not _is_free(key, begun)]
    if refused:
        raise UserError(
            f"{str(out)!r} holds another run: its recipe differs in {', '.join(refused[:8])}.",
            "Use another --out, or the same settings to go on. Nothing was changed.",
        )
    if resume == "never":
        raise UserError(f"{str(out)!r} holds this run already, and --resume is never.", "Use another --out.")
    return True


def as_begun(recipe: Recipe, out: Path) -> Recipe:
    """A recipe as the run in a directory was begun, where that is left open.

    The precision `auto` is what it was found to be then; of runs of an earlier version see `data.holdout_by`.
    """
    if not (out / "recipe.yaml").is_file():
        return recipe
    if recipe.engine.precision == "auto":
        begun = read_run_recipe(out).engine.precision
        recipe = msgspec.structs.replace(recipe, engine=msgspec.structs.replace(recipe.engine, precision=begun))
    return recipe if says_how_it_held_out(out) else held_out_by_class(recipe)


def claim(out: Path, recipe: Recipe, comments: Comments | None = None) -> None:
    """Write the recipe of a run that begins, or that goes on with other values of free keys.

    Args:
        out: the run.
        recipe: what it does.
        comments: why its keys have their values; None keeps those that are there.
    """
    text = dump_recipe(recipe)
    file = out / "recipe.yaml"
    if comments is None:
        comments = read_comments(file.read_text(encoding="utf-8", errors="replace")) if file.is_file() else {}
    if comments:
        text = with_comments(text, comments)
    if file.is_file() and not says_how_it_held_out(out):  # so that it goes on as it was begun the next time, too
        text = text.replace("  holdout_by: class\n", "", 1)
    if not file.is_file() or file.read_bytes() != text.encode(errors="surrogateescape"):
        write_text(file, text)
