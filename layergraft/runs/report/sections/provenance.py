"""How it was made: machine, versions, images, time, recipe; for several runs, what their recipes differ in."""

from __future__ import annotations

import msgspec

from layergraft.config.check import dotted_text
from layergraft.runs.readable import counted, duration
from layergraft.runs.report.run_files import RunFiles
from layergraft.runs.report.section import Code, Notes, Section, Table


def _facts(run: RunFiles) -> dict[str, str]:
    summary = run.summary
    if not summary:
        return {}
    machine, data = summary["machine"], summary["data"]
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    return {
        "machine": f"{machine['cpu']}, {counted(machine['threads'], 'thread')}{gpu}",
        "versions": ", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
        "images": f"{data['source']}: {data['train']:,} trained, {data['holdout']:,} held out",
        "fingerprint of the images": str(data["fingerprint"]),
        "time since the last start": duration(summary["seconds_since_start"]),
        "recipe": str(summary["recipe"]),
    }


def _keys(columns: list[dict[str, str]]) -> list[str]:
    """Every key of the columns, in the order of their first appearance."""
    keys: dict[str, None] = {}
    for column in columns:
        keys |= dict.fromkeys(column)
    return list(keys)


def _side_by_side(keys: list[str], columns: list[dict[str, str]]) -> list[list[str]]:
    """A row per key: the key, and its value in each column, empty where it has none."""
    return [[key, *(column.get(key, "") for column in columns)] for key in keys]


def _differences(runs: list[RunFiles]) -> Table | None:
    recipes = [dotted_text(msgspec.to_builtins(run.recipe)) if run.recipe else {} for run in runs]
    keys = [key for key in _keys(recipes) if len({recipe.get(key) for recipe in recipes}) > 1]
    if not keys:
        return None
    columns = ["key", *(run.name for run in runs)]
    return Table(title="What the recipes differ in", columns=columns, rows=_side_by_side(keys, recipes))


def provenance(runs: list[RunFiles]) -> Section | None:
    """Facts and recipes."""
    facts = [_facts(run) for run in runs]
    keys = _keys(facts)
    blocks: list[Table | Notes | Code] = []
    if len(runs) > 1 and (table := _differences(runs)):
        blocks.append(table)
    if keys:
        columns = ["", *(run.name for run in runs)]
        title = "Machine, versions and images"
        blocks.append(Table(title=title, columns=columns, rows=_side_by_side(keys, facts)))
    for run in runs:
        if run.recipe_text:
            title = "Recipe" if len(runs) == 1 else f"Recipe of {run.name}"
            blocks.append(Code(title=f"{title} (train --recipe FILE makes this run again)", text=run.recipe_text))
    return (
        Section(name="made", title="How it was made", short="Made", folded=True, blocks=[*blocks]) if blocks else None
    )
