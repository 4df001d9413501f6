"""What should not be overlooked: collapse, waiting for images, a capped batch, what a guard did, an unfinished run."""

from __future__ import annotations

from layergraft.runs.readable import counted
from layergraft.runs.report.run_files import RunFiles
from layergraft.runs.report.section import Notes, Section


def run_warnings(run: RunFiles) -> list[str]:
    """Sentences, none where all is well."""
    sentences = []
    if run.recipe is not None and not run.summary:
        finished = {stage["name"] for stage in run.stages}
        missing = [name for name in run.recipe.stages if name not in finished]
        stages = f"stage{'s' if len(missing) > 1 else ''} {' and '.join(missing)}"
        waits = f"{stages} {'are' if len(missing) > 1 else 'is'} missing" if missing else "its evaluation is missing"
        sentences.append(f"The run is not finished: {waits}. The same command goes on.")
    for stage in run.stages:
        name, known = stage["name"], run.recipe.stages.get(stage["name"]) if run.recipe else None
        asked = known.batch_size if known else None
        rows = [row for row in run.metrics if row["stage"] == name]
        if asked is not None and stage["batch_size"] < asked:
            sentences.append(
                f"Stage {name}: the batch of {asked} was capped at {counted(stage['batch_size'], 'image')}."
            )
        guard = stage.get("guard")
        if guard is not None and (guard["at_start"] or guard["softened"] or guard["ended"]):
            sentences.append(guard["sentence"])
        ranks = [row["rankme"] for row in rows if isinstance(row.get("rankme"), int | float)]
        if len(ranks) > 1 and ranks[-1] < 0.25 * max(ranks):
            sentences.append(
                f"Stage {name}: the rank of the features fell from {max(ranks):.0f} to {ranks[-1]:.0f}: a collapse?"
            )
        waited = [row["data_wait"] for row in rows if isinstance(row.get("data_wait"), int | float)]
        if waited and sum(waited) / len(waited) > 0.3:
            share = sum(waited) / len(waited)
            sentences.append(
                f"Stage {name} waited for images {share:.0%} of the time: raise data.workers, or pack the images."
            )
    return sentences


def warnings(runs: list[RunFiles]) -> Section | None:
    """All runs' warnings, at the top of the page."""
    lines: list[str] = []
    for run in runs:
        prefix = "" if len(runs) == 1 else f"{run.name}: "
        lines += [prefix + sentence for sentence in run_warnings(run)]
    if not lines:
        return None
    return Section(name="warnings", title="Worth knowing", short="Warnings", blocks=[Notes(lines=lines, warning=True)])
