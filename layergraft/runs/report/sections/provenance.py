"""How it was made: machine, versions, images, time, recipe; for several runs, what their recipes differ in."""

from __future__ import annotations

from typing import Any

import msgspec

from layergraft.runs.report.run_files import RunFiles
from layergraft.runs.report.section import Code, Notes, Section, Table


def _facts(run: RunFiles) -> dict[str, str]:
    summary = run.summary
    if not summary:
        return {}
    machine, data = summary["machine"], summary["data"]
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    return {
        "machine": f"{machine['cpu']}, {machine['threads']} threads{gpu}",
        "versions": ", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
        "images": f"{data['source']}: {data['train']:,} trained, {data['holdout']:,} held out",
        "fingerprint of the images": str(data["fingerprint"]),
        "time since the last start": f"{summary['seconds_since_start']:,.0f} s",
        "recipe": str(summary["recipe"]),
    }


def flat(value: Any, path: str = "") -> dict[str, str]:
    """A nested mapping as dotted key -> text."""
    if isinstance(value, dict) and value:
        found: dict[str, str] = {}
        for key, part in value.items():
            found |= flat(part, f"{path}.{key}" if path else str(key))
        return found
    return {path: str(value)}


def _differences(runs: list[RunFiles]) -> Table | None:
    recipes = [flat(msgspec.to_builtins(run.recipe)) if run.recipe else {} for run in runs]
    keys = [
        key for key in dict.fromkeys(k for own in recipes for k in own) if len({own.get(key) for own in recipes}) > 1
    ]
    if not keys:
        return None
    return Table(
        title="What the recipes differ in",
        columns=["key", *(run.name for run in runs)],
        rows=[[key, *(own.get(key, "") for own in recipes)] for key in keys],
    )


def provenance(runs: list[RunFiles]) -> Section | None:
    """Facts and recipes."""
    facts = [_facts(run) for run in runs]
    keys = list(dict.fromkeys(key for own in facts for key in own))
    blocks: list[Table | Notes | Code] = []
    if len(runs) > 1 and (table := _differences(runs)):
        blocks.append(table)
    if keys:
        columns = ["", *(run.name for run in runs)]
        rows = [[key, *(own.get(key, "") for own in facts)] for key in keys]
        blocks.append(Table(title="Machine, versions and images", columns=columns, rows=rows))
    for run in runs:
        if run.recipe_text:
            title = "Recipe" if len(runs) == 1 else f"Recipe of {run.name}"
            blocks.append(Code(title=f"{title} (train --recipe FILE makes this run again)", text=run.recipe_text))
    return Section(name="made", title="How it was made", blocks=[*blocks]) if blocks else None
