"""A branch of a trunk: a stage that goes on from another run's state before its decay, with a decay of its own.

A stage with the schedule `wsd` keeps its state at the last step before its decay (`trunk-*.pt` beside its checkpoints).
Up to there nothing depends on its length, so that one trunk serves decays of many lengths (Hägele et al., NeurIPS
2024). The trunk is only read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from layergraft.config.check import dotted
from layergraft.config.loading import read_run_recipe
from layergraft.config.paths import expanded
from layergraft.config.recipe import Recipe
from layergraft.config.stage import StageConfig
from layergraft.data.decode.options import parse_read_options
from layergraft.errors import UserError
from layergraft.runs.layout import stage_directory
from layergraft.training.checkpoints import State, read_state
from layergraft.training.optim import cooldown_steps

_FREE = ("epochs", "steps", "branch", "snapshots", "optimizer.cooldown", "optimizer.min_lr")
_STATE_FILE = re.compile(r"(trunk|step)-\d+-\d+-[0-9a-f]{8}\.pt")  # as `Checkpoints` names them
_BY_STEPS = ("warmup_epochs", "warmup_steps", "progressive")  # compared by the steps that they come to


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Where a stage branches off.

    Args:
        file: the trunk's state.
        step: how many steps it has made.
    """

    file: Path
    step: int

    def state(self) -> State:
        """Read the trunk's state.

        Raises:
            UserError: the file is damaged, or gone.
        """
        state = read_state(self.file)
        if state is None:
            raise UserError(f"{str(self.file)!r} is damaged, or gone.", "Give another checkpoint of the trunk.")
        return state


def decay_start(config: StageConfig, steps_per_epoch: int) -> int | None:
    """The last step before a stage's decay; None where its schedule falls from the warm-up on."""
    if config.optimizer.schedule != "wsd":
        return None
    steps, warmup = config.total_steps(steps_per_epoch), config.total_warmup_steps(steps_per_epoch)
    return steps - cooldown_steps(steps, warmup, config.optimizer.cooldown)


def step_of(file: Path) -> int:
    """How many steps a state has made, by its file's name."""
    return int(file.stem.split("-")[1])


def find_branch(recipe: Recipe, name: str, steps_per_epoch: int) -> Branch | None:
    """The latest state of a stage's trunk from which both decays are still to come; None for a stage without trunk.

    Args:
        recipe: of the stage that branches off.
        name: its name.
        steps_per_epoch: whole batches of its training images.

    Raises:
        UserError: there is no such trunk or state, or the trunk was trained in another way.
    """
    config = recipe.stages[name]
    if config.branch is None:
        return None
    where, key = expanded(config.branch), f"stages.{name}.branch"
    directory = _trunk_directory(where, name)
    if directory is None:
        raise UserError(
            f"`{key}`: {config.branch!r} is neither a run, nor one of its stages, nor a checkpoint of one.",
            "For instance runs/trunk/stages/0-mae.",
        )
    trunk = read_run_recipe(directory.parent.parent)
    trunk_name = directory.name.partition("-")[2]
    differing = _differences(recipe, name, trunk, trunk_name, steps_per_epoch)
    if differing:
        raise UserError(
            f"`{key}`: the trunk {str(directory)!r} was trained with other {', '.join(differing[:6])}.",
            "A branch differs from its trunk in the lengths of stage and decay alone, and bears the same name.",
        )
    ends = [decay_start(stage, steps_per_epoch) for stage in (config, trunk.stages[trunk_name])]
    latest = min(end for end in ends if end is not None)
    files = [where] if where.suffix == ".pt" else _states(directory / "checkpoints")
    usable = [file for file in files if 0 < step_of(file) <= latest]
    if not usable:
        steps = ", ".join(str(step) for step in sorted({step_of(file) for file in files})) or "none"
        raise UserError(
            f"`{key}`: no state of {str(directory)!r} lies before both decays, which begin at step {latest} (there are "
            f"{steps}).",
            f"Choose a later decay (--stages.{name}.steps, --stages.{name}.optimizer.cooldown), or train a trunk that "
            "keeps more: --engine.checkpoint_steps 1000 --engine.keep 100.",
        )
    file = max(usable, key=lambda file: (step_of(file), file.stem.split("-")[2]))
    return Branch(file=file, step=step_of(file))


def branch_in(run: Path, recipe: Recipe, name: str, steps_per_epoch: int) -> Branch | None:
    """Like `find_branch`; None also where the stage has begun in a run, whose own checkpoints count then."""
    begun = any((stage_directory(run, recipe, name) / "checkpoints").glob("step-*.pt"))
    return None if begun else find_branch(recipe, name, steps_per_epoch)


def steps_left_out(recipe: Recipe, name: str, steps_per_epoch: int) -> int:
    """How many steps of a stage its trunk has made; 0 where there is no trunk, or none any more."""
    try:
        branch = find_branch(recipe, name, steps_per_epoch)
    except UserError:
        return 0
    return 0 if branch is None else branch.step


def _trunk_directory(where: Path, name: str) -> Path | None:
    """The stage directory that a path names: itself, that of a checkpoint, or the run's stage of a name."""
    if where.suffix == ".pt":
        directory = where.parent.parent
        is_state = where.is_file() and _STATE_FILE.fullmatch(where.name)
        return directory if is_state and (directory.parent.parent / "recipe.yaml").is_file() else None
    if (where / "recipe.yaml").is_file():
        trunk = read_run_recipe(where)
        return stage_directory(where, trunk, name) if name in trunk.stages else None
    return where if (where.parent.parent / "recipe.yaml").is_file() and where.is_dir() else None


def _states(checkpoints: Path) -> list[Path]:
    """The states in a directory of checkpoints; damaged ones, which are set aside under other names, are none."""
    return [file for file in checkpoints.glob("*.pt") if _STATE_FILE.fullmatch(file.name)]


def _reading(source: str | None) -> dict[str, Any]:
    """How the images of a SOURCE become numbers, wherever they lie."""
    text = source or ""
    query = dict(parse_qsl(text.partition("?")[2]))
    statistics = {f"data.source ?{name}": query.get(name) for name in ("mean", "std")}
    return {"data.source (how it is read)": parse_read_options(query, text)} | statistics


def _differences(recipe: Recipe, name: str, trunk: Recipe, trunk_name: str, steps_per_epoch: int) -> list[str]:
    """Keys of a branch that would part it from its trunk before the decay."""

    def kept(whole: Recipe, stage: str) -> dict[str, Any]:
        config = whole.stages[stage]
        values = dotted(msgspec.to_builtins(config))
        values = {key: value for key, value in values.items() if key not in _FREE + _BY_STEPS}
        values |= {"encoder": whole.encoder, "seed": whole.seed, "warm-up": config.total_warmup_steps(steps_per_epoch)}
        steps = config.total_steps(steps_per_epoch)
        values["progressive (its parts end at steps)"] = [
            (round(phase.until * steps), phase.size, phase.keep_ratio) for phase in config.progressive
        ]
        values |= _reading(whole.data.source)
        data = ("holdout", "holdout_by", "augment", "mean", "std")
        return values | {f"data.{key}": getattr(whole.data, key) for key in data}

    if name != trunk_name or trunk_name not in trunk.stages:
        return [f"stages ({', '.join(trunk.stages)})"]
    ours, theirs = kept(recipe, name), kept(trunk, trunk_name)
    differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    return differing + ([] if ours["optimizer.schedule"] == "wsd" else ["optimizer.schedule (it is to be wsd)"])
