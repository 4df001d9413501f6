"""`layergraft plan`: print a recipe's graft plans, and what they will cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from layergraft.commands.own_recipe import OwnRecipe
from layergraft.config.encoder import shown_size
from layergraft.config.guard import GuardConfig
from layergraft.config.loading import dump_recipe, recipe_hash
from layergraft.config.recipe import Recipe
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.errors import UserError, nearest
from layergraft.graft.apply import set_frozen, stage_plan
from layergraft.graft.donors import first_encoder, load_start
from layergraft.objectives.create import create_objective, know_classes
from layergraft.runs.announce import announce
from layergraft.runs.atomic import write_text
from layergraft.runs.interruption import check
from layergraft.runs.readable import counted, duration, short
from layergraft.training.branch import find_branch
from layergraft.training.check_recipe import check_recipe, is_missing
from layergraft.training.cost import step_flops
from layergraft.training.estimate import StageTrial, feature_seconds, run_time, try_stage
from layergraft.training.memory import SMALL, memory_warning, step_memory
from layergraft.training.precision import settle_precision
from layergraft.training.run_data import RunData, load_data, remarks_on, with_source
from layergraft.training.stage import stands_still
from layergraft.training.stage_files import progressive_json

GIVE_DATA = "give --data to know"
NOT_COUNTED = "not counted of a small encoder that was chosen: plan --recipe counts it"


def show_plan(
    recipe: Recipe, only: str | None, as_json: bool, out: Path | None = None, chosen: OwnRecipe | None = None
) -> dict[str, Any]:
    """The content of `plan --json`; printed as tables or JSON.

    Args:
        recipe: what is planned.
        only: the stage that is shown; None shows all.
        as_json: print JSON.
        out: a YAML file to write the recipe to.
        chosen: the recipe with its reasons and trial, where none was given.

    Raises:
        UserError: there is no such stage, `train` would refuse the recipe, or the file is there already.
    """
    if out is not None and (out.exists() or out.suffix not in (".yaml", ".yml")):
        raise UserError(f"{str(out)!r} cannot be written: it is there, or does not end in .yaml.", "Use another --out.")
    if only is not None and only not in recipe.stages:
        raise UserError(f"There is no stage {only!r} in the recipe.", nearest(only, recipe.stages))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = msgspec.structs.replace(recipe, engine=settle_precision(recipe.engine, device))
    tried = chosen.tried if chosen else None
    data = tried.data if tried else None if recipe.data.source is None else load_data(recipe)
    train = data.train if data else None
    encoder = checked_encoder(recipe, data)
    if train is not None:
        announce(*remarks_on(recipe, encoder, train, chosen=chosen is not None))
    stages, warnings = [], {}
    trials: dict[str, StageTrial] = {}
    for name in recipe.stages:
        check()
        planned, trial = planned_stage(recipe, name, encoder, device, data, tried.trials[name] if tried else None)
        stages.append(planned)
        if trial is not None:
            trials[name] = trial
        warning = memory_warning(name, planned["memory_bytes"], device) if planned["memory_bytes"] else None
        warnings[name] = f"{warning}\n" if warning else ""
    content = {
        "recipe": recipe_hash(recipe),
        "encoder": msgspec.to_builtins(recipe.encoder),
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "stages": stages,
    }
    time = chosen.time if chosen else None
    if time is None and data is not None and len(trials) == len(recipe.stages):
        time = run_time(recipe, data, trials, feature_seconds(recipe, data))
    content["time"] = time.seconds() if time else None
    text = chosen.text() if chosen else dump_recipe(recipe)
    if out is not None:
        write_text(out, text)
    if as_json:
        print(json.dumps(content))
    else:
        console = Console()
        if chosen is not None and out is None:
            print(text)
        for stage_json in stages:
            if only is None or stage_json["name"] == only:
                console.print(plan_table(stage_json))
                console.print(warnings[str(stage_json["name"])], style="yellow", end="")
        if time is not None and chosen is None:  # else it was told when the recipe was chosen
            console.print(time.sentence())
    return content


def planned_stage(
    recipe: Recipe, name: str, encoder: Encoder, device: torch.device, data: RunData | None, tried: StageTrial | None
) -> tuple[dict[str, Any], StageTrial | None]:
    """One stage of `plan --json`, and what a step of it takes.

    Args:
        recipe: what is planned.
        name: the stage's.
        encoder: as the first stage begins; it is frozen where the stage's plan says so.
        device: that would train.
        data: the images, where they are given.
        tried: what a step of a chosen recipe takes; None tries it where there are images.

    Returns:
        (the stage, the trial: None without images).
    """
    stage, train = recipe.stages[name], data.train if data else None
    images = len(train) if train else None
    objective = create_objective(know_classes(stage.objective, train, name), encoder)
    batch_size = min(stage.batch_size, images) if images else stage.batch_size
    rows, plan = stage_plan(stage, name, encoder, objective, batch_size)
    per_epoch = stage.steps_per_epoch(images) if images else None
    steps = stage.total_steps(per_epoch) if per_epoch else stage.steps
    # Its images as they are read once the run begins, which a trunk's recipe says.
    branch = find_branch(with_source(recipe, data.train.spec), name, per_epoch) if data and per_epoch else None
    left = None if steps is None else steps - (branch.step if branch else 0)
    set_frozen(rows, plan)
    objective.begin_stage(encoder)
    needed, flops = None, None
    if tried is None or sum(row.parameters for row in plan.rows) > SMALL:
        used = msgspec.structs.replace(stage, batch_size=batch_size)
        needed = step_memory(encoder, objective, plan, used, recipe.engine, device)
        flops = step_flops(encoder, objective, used)
    trial, seconds, how = None, None, GIVE_DATA
    if data is not None and steps is not None:
        trial = tried or try_stage(recipe, name, data, batch_size, flops or 1)
        seconds, how = None if trial.step is None or left is None else left * trial.step, trial.how
    planned = {
        "name": name,
        "objective": stage.objective.__struct_config__.tag,
        "optimizer": stage.optimizer.name,
        "layers": plan.to_json(),
        "steps": steps,
        "epochs": round(stage.total_epochs(per_epoch), 2) if per_epoch else stage.epochs,
        "batch_size": batch_size,
        "memory_bytes": needed,
        "seconds": seconds,
        "flops": flops * left if flops and left else None,
        "guard": None,
        "notes": {
            "memory_bytes": "an estimate for one process that takes the whole batch",
            "seconds": how,
            "flops": "products, attention and convolutions of all steps, by their shapes",
        }
        | ({} if steps else dict.fromkeys(("steps", "flops"), GIVE_DATA))
        | ({"guard": guard_sentence(stage.guard)} if stage.guard and not stands_still(plan) else {})
        | ({} if needed else dict.fromkeys(("memory_bytes", "flops"), NOT_COUNTED)),
    } | progressive_json(stage, steps)
    if branch is not None:
        planned["branch"] = {"file": str(branch.file), "step": branch.step}
    return planned, trial


def guard_sentence(guard: GuardConfig) -> str:
    """What a guard will do."""
    then = "ends" if guard.soften is None else f"softens the rates to {guard.soften:g} once, and then ends"
    return (
        f"Guarded on held-out images: leaves the best point, at worst its start. A fall by {guard.margin:g} points of "
        f"kNN and 5-shot {then} the stage. Without labels it leaves as much of the way as shares {guard.agreement:g} "
        f"of the start's neighbours and has {guard.rankme:g} of its RankMe; where none has, that is a fall."
    )


def checked_encoder(recipe: Recipe, data: RunData | None) -> Encoder:
    """The encoder that the first stage begins with, after what `train` checks before it begins.

    Without images nothing that depends on them is checked, and a `start` that is not here is only named: the table does
    not need it.

    Raises:
        UserError: `train` would refuse the recipe.
    """
    if data is not None:
        encoder = first_encoder(recipe, data.mean, data.std)
    else:
        encoder = create_encoder(recipe.encoder, 0)
        if recipe.start is not None and is_missing(recipe.start):
            announce(f"`start` {recipe.start!r} is not here: whether it fits was not checked.")
        elif recipe.start is not None:
            load_start(recipe, encoder.depth)
    check_recipe(recipe, encoder, data, None)
    return encoder


def plan_table(stage: dict[str, Any]) -> Group:
    """One stage of `plan --json` as a table; columns that say the same of every layer are a line below it."""
    memory = stage["memory_bytes"] or 0
    title = f"Stage {stage['name']}: {stage['objective']}, batch {stage['batch_size']}"
    title += f", {counted(stage['epochs'], 'epoch')}" if stage["epochs"] else ""
    title += f", {counted(stage['steps'], 'step')}" if stage["steps"] else ""
    costs = [f"{short(memory / 2**30, 2)} GiB"] if memory else []
    costs += [duration(stage["seconds"])] if stage["seconds"] is not None else []
    title += f", about {' and '.join(costs)}" if costs else ""
    rows = stage["layers"]
    columns = {
        "layer": [row["name"] for row in rows],
        "source": [row["source"] for row in rows],
        "lr scale": ["" if row["frozen"] else short(row["lr_scale"]) for row in rows],
        "peak lr": ["frozen" if row["frozen"] else short(row["lr"]) for row in rows],
        "decay": [short(row["weight_decay"]) for row in rows],
        "decay 1-D": [short(row["weight_decay_1d"]) for row in rows],
        "anchor": [f"{a['norm']} {short(a['weight'])}" if (a := row["anchor"]) else "" for row in rows],
        "parameters": [f"{row['parameters']:,}" for row in rows],
    }
    common = {name: cells[0] for name, cells in columns.items() if len(rows) > 1 and len(set(cells)) == 1}
    table = Table()
    varied = {name: cells for name, cells in columns.items() if name not in common}
    for name in varied:
        # What may be long is a source, which goes on below itself; no other cell is cut or broken.
        text = name in ("layer", "source")
        table.add_column(name, justify="left" if text else "right", no_wrap=name != "source", overflow="fold")
    for cells in zip(*varied.values(), strict=True):
        table.add_row(*map(escape, cells))
    same = ", ".join(f"{name} {cell}" for name, cell in common.items() if cell)
    lines = [f"All layers: {same}."] if same else []
    if stage["optimizer"] == "muon":
        lines.append("Matrices by Muon, the rest by AdamW, at learning rates that compare.")
    if "branch" in stage:
        lines.append(f"Branches off at step {stage['branch']['step']:,}, from {stage['branch']['file']}.")
    lines += [progressive_line(stage["progressive"])] if "progressive" in stage else []
    if guard := stage.get("notes", {}).get("guard"):
        lines.append(guard)
    return Group(Text(title, style="bold"), table, Text("".join(f"{line}\n" for line in lines)))


def progressive_line(parts: list[dict[str, Any]]) -> str:
    """The first parts of a stage in words."""
    said = []
    for part in parts:
        what = [f"{shown_size(part['size'])} px"] if part["size"] is not None else []
        what += [f"{100 * part['keep_ratio']:g} % of the patches"] if part["keep_ratio"] is not None else []
        where = f"step {part['steps']:,}" if part["steps"] is not None else f"{100 * part['until']:g} % of the steps"
        said.append(f"{' and '.join(what) or 'as the rest'} to {where}")
    return f"Progressive: {', then '.join(said)}; then whole views."
