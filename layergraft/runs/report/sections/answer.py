"""The first screen: one sentence, three numbers, and what to do next."""

from __future__ import annotations

import shlex

from layergraft.runs.readable import counted, duration, slug
from layergraft.runs.report.headline import Headline, find_headline
from layergraft.runs.report.run_files import RunFiles
from layergraft.runs.report.section import Section, Tile, Tiles
from layergraft.runs.results import CROSS_VALIDATION
from layergraft.runs.run_time import RunTime

_ENOUGH_LABELS = 100  # below, more labels say more than anything else


def answer(runs: list[RunFiles]) -> Section | None:
    """What came out, for someone who reads nothing else."""
    found = [(run, headline) for run in runs if (headline := find_headline(run)) is not None]
    if not found:
        return _unmeasured(runs[0]) if len(runs) == 1 and runs[0].summary else None
    if len(runs) == 1:
        run, headline = found[0]
        step, command = _next(run, headline)
        tiles = [_accuracy(headline), *_gain(headline), *_time(run)]
        return _section(_sentence(headline), Tiles(tiles=tiles, step=step, command=command))
    return _compared(found)


def _section(lead: str, tiles: Tiles) -> Section:
    return Section(name="answer", title="In short", short="In short", lead=lead, blocks=[tiles])


def _tested(headline: Headline) -> str:
    row = headline.few.row
    if headline.group.test == CROSS_VALIDATION:
        return f"the {row.n_test:,} labelled images, each by classifiers of the others,"
    what = "held-out" if headline.group.test == "holdout" else "test"
    return f"{row.n_test:,} {what} images"


def _classifier(headline: Headline) -> str:
    return "nearest neighbours in" if headline.few.row.protocol == "knn" else "a linear classifier on"


def _sentence(headline: Headline) -> str:
    """`With 10 labels (1 a class) a linear classifier on this encoder names 34.1 % of 5,000 test images rightly, …`."""
    few, gain = headline.few.row, headline.gain
    which = "the features of this encoder" if few.protocol == "knn" else "this encoder"
    text = f"With {few.labels} {_classifier(headline)} {which} names {few.value:.1f} % of {_tested(headline)} rightly"
    if headline.pixels is not None and gain is not None:
        text += f"; {'in' if few.protocol == 'knn' else 'on'} raw pixels {headline.pixels.row.value:.1f} %"
    if headline.more:
        most = headline.more[-1].row
        text += f". With {most.labels}: {most.value:.1f} %"
    if gain is not None and gain <= 0:
        text += ". The encoder has not learned these classes better than pixels do"
    return text + "."


def _accuracy(headline: Headline, label: str = "") -> Tile:
    one = headline.few
    ends = f"95 % interval {one.row.low:.1f} to {one.row.high:.1f}" if one.row.low is not None else ""
    splits = f"mean of {len(headline.splits)} random choices of the labels" if len(headline.splits) > 1 else ""
    value = f"{one.row.value:.1f} %"
    return Tile(label=label or f"right with {one.row.labels}", value=value, note=_joined(ends, splits))


def _gain(headline: Headline) -> list[Tile]:
    gain = headline.gain
    if gain is None:
        return []
    said = f"better in {headline.better} of {len(headline.splits)} choices" if len(headline.splits) > 1 else ""
    random = f"random weights reach {headline.random.row.value:.1f} %" if headline.random is not None else ""
    return [Tile(label="over raw pixels", value=f"{gain:+.1f} points".replace("-", "−"), note=_joined(said, random))]


def _time(run: RunFiles) -> list[Tile]:
    if not run.summary:
        return []
    machine = run.summary["machine"]
    where = machine["gpu"] or f"{machine['cpu']}, {counted(machine['threads'], 'thread')}"
    label = "training, measuring and analysing"
    if "time" not in run.summary:  # a run of an earlier version
        seconds = duration(run.summary["seconds_since_start"])
        return [Tile(label=label, value=seconds, note=f"since the run's last start, on {where}")]
    taken = RunTime(**run.summary["time"]["taken"])
    return [Tile(label=label, value=duration(taken.whole), note=f"{taken.parts()}; on {where}")]


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _next(run: RunFiles, headline: Headline) -> tuple[str, str]:
    """What to do next, and the command that does it."""
    here = shlex.quote(str(run.path))
    if headline.group.test == CROSS_VALIDATION:
        if headline.few.row.n_test < _ENOUGH_LABELS:
            return (
                "label the images that tell most, and let it name the others.",
                f"layergraft label --encoder {here} --data FOLDER --labels labels.csv",
            )
        return (
            "let it name the other images.",
            f"layergraft predict --encoder {here} --data FOLDER --labels labels.csv --out predictions.csv",
        )
    if headline.gain is not None and headline.gain <= 0:
        recipe = shlex.quote(str(run.path / "recipe.yaml"))
        return (
            "train longer, or start from released weights.",
            f"layergraft train --recipe {recipe} --start CHECKPOINT --out RUN" if run.recipe is not None else "",
        )
    most = max((headline.few, *headline.more), key=lambda one: one.row.n_train).row
    probes = sorted((run.path / "probes").glob(f"*-{most.protocol}-*.safetensors"))
    words = [slug(word) for word in (most.encoder, most.shots.replace("%", "percent"))]
    fitting = [probe for probe in probes if all(f"-{word}-" in f"-{probe.stem}-" for word in words)]
    fitting = [probe for probe in fitting if probe.stem.endswith(f"-{slug(most.pooling or 'cls')}")]  # no inner block's
    if not fitting:
        return (
            "label some of your own images, and let it name the others.",
            f"layergraft label --encoder {here} --data FOLDER --labels labels.csv",
        )
    return (
        f"let the classifier of {most.labels} name other images.",
        f"layergraft predict --encoder {here} --data FOLDER --probe {shlex.quote(str(fitting[0]))} "
        "--out predictions.csv",
    )


def _unmeasured(run: RunFiles) -> Section:
    """A run that measured nothing, as a rule because its images have no labels."""
    data = run.summary["data"]
    text = (
        f"Trained on {counted(data['train'], 'image')}. How well the encoder tells your classes apart was not "
        "measured: that takes labels, and thirty are a start."
    )
    steps = sum(stage["steps"] for stage in run.stages)
    stages = ", then ".join(stage["name"] for stage in run.stages)
    tiles = [
        Tile(label="training images", value=f"{data['train']:,}", note=f"{data['holdout']:,} more were held out"),
        Tile(label="steps", value=f"{steps:,}", note=stages),
        *_time(run),
    ]
    here, source = shlex.quote(str(run.path)), shlex.quote(data["source"])
    command = f"layergraft label --encoder {here} --data {source} --labels labels.csv"
    step = "label 30 images, those that tell most, on a page in your browser (layergraft pick lists them in a file)."
    return _section(text, Tiles(tiles=tiles, step=step, command=command))


def _compared(found: list[tuple[RunFiles, Headline]]) -> Section | None:
    """Several runs: the best with as few labels on the same images."""
    first = found[0][1]
    alike = [(run, headline) for run, headline in found if _same(headline, first)]
    if len(alike) < 2:
        return None
    alike.sort(key=lambda pair: -pair[1].few.row.value)
    (best_run, best), (second_run, second) = alike[0], alike[1]
    low, high = best.few.row.low, second.few.row.high
    apart = low is not None and high is not None and low > high
    text = (
        f"With {best.few.row.labels}, {best_run.name} is best of {len(alike)} runs: {best.few.row.value:.1f} % of "
        f"{_tested(best)} named rightly, {second_run.name} {second.few.row.value:.1f} %"
        + ("." if apart else ". Their 95 % intervals overlap: each run is one seed, and this is no proof.")
    )
    tiles = [_accuracy(one, label=own.name) for own, one in alike[:2]]
    return _section(text, Tiles(tiles=[*tiles, *_gain(best)]))


def _same(one: Headline, other: Headline) -> bool:
    def measurement(headline: Headline) -> tuple[object, ...]:
        row = headline.few.row
        return *row.images, row.protocol, row.variant, row.shots

    return measurement(one) == measurement(other)
