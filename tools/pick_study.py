"""Which of `pick`'s methods is best: choose on held-out images, report on test images.

    layergraft demo --out runs/demo
    python tools/pick_study.py --run runs/demo      # measures, writes docs/pick_study.json and fills the page
    python tools/pick_study.py                      # fills the page from the committed file

replaces what stands between `<!-- picks -->` and `<!-- end picks -->` in `docs/thirty_labels.md`. Each draw is a random
part of the images; every method picks from the same part, the classifier of `predict` is fitted to the labels of its
picks, and its accuracy on the rest of the part is compared with that of picks by chance.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from layergraft.config.loading import read_run_recipe
from layergraft.data.arrays import Indices, Labels
from layergraft.data.randomness import Randomness
from layergraft.data.sources.holdout import split_holdout
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.encoders.checkpoint import load_encoder
from layergraft.evaluation.cache import features_of
from layergraft.evaluation.features import Array, center_and_normalize
from layergraft.evaluation.labelled_classifier import fit_labelled
from layergraft.evaluation.picking.methods import Method, picks
from layergraft.evaluation.picking.pool import Pool

DOCS = Path(__file__).parents[1] / "docs"
LABELS = (30, 100)
CHEAPEST_FIRST = ("maxherding", "typiclust", "probcover")  # of what picks without labels; the first needs no extra
START = 10
ERROR = 0.1  # of the sets, which are not asked for
METHODS: tuple[Method, ...] = ("typiclust", "probcover", "maxherding", "margin", "random")
PART = re.compile(r"(<!-- picks -->\n).*?(<!-- end picks -->)", re.DOTALL)
Accuracies = dict[str, dict[str, list[float]]]
"""Method -> number of labels -> accuracy of each draw in percent."""


def accuracy(features: Array, labels: Labels, picked: Indices) -> float:
    """Accuracy in percent of `predict` on what was not picked; classes without a label count as wrong."""
    named, ids = np.unique(labels[picked], return_inverse=True)
    rest = np.setdiff1d(np.arange(len(labels)), picked)
    fitted = fit_labelled(features[picked], ids.astype(np.int64), len(named), ERROR)
    return 100 * float((named[fitted.probabilities(features[rest]).argmax(1)] == labels[rest]).mean())


def picked_rows(features: Array, labels: Labels, method: Method, number: int, seed: int) -> Indices:
    """Picks of a method. Margin begins with ten of maxherding, and is asked again after every ten labels."""
    nothing = np.empty(0, dtype=np.int64)
    first = "maxherding" if method == "margin" else method
    wanted = START if method == "margin" else number
    rows = np.array(list(islice(picks(Pool(features, nothing), first, nothing, nothing, seed), wanted)))
    while len(rows) < number:
        more = picks(Pool(features, rows), method, rows, labels[rows], seed)
        rows = np.append(rows, list(islice(more, min(START, number - len(rows)))))
    return rows


def measure(features: Array, labels: Labels, draws: int, size: int) -> Accuracies:
    """Accuracies of all methods over random parts of `size` images."""
    accuracies_of: Accuracies = {method: {str(number): [] for number in LABELS} for method in METHODS}
    for draw in range(draws):
        order = Randomness(seed=draw, scope="pick study").permutation("part", np.arange(len(labels)), 0, first=size)
        x, y = features[order], labels[order]
        for method in METHODS:
            rows = picked_rows(x, y, method, max(LABELS), draw)
            for number in LABELS:
                accuracies_of[method][str(number)].append(round(accuracy(x, y, rows[:number]), 3))
        print(
            draw, {method: accuracies[str(LABELS[0])][-1] for method, accuracies in accuracies_of.items()}, flush=True
        )
    return accuracies_of


def _features(run: Path, source: Source) -> tuple[Array, Labels]:
    features = features_of(load_encoder(str(run)), source, ["cls"])["cls"]
    return center_and_normalize(features), source.selected_labels


def study(run: Path, draws: int) -> dict[str, Accuracies]:
    """Measure on the images that the run held out, and on the test images."""
    recipe = read_run_recipe(run)
    _, held = split_holdout(open_source(recipe.data.source), recipe.data.holdout, recipe.seed, recipe.data.holdout_by)
    test = open_source(recipe.data.source + ":test")
    parts = {"held-out": (held, len(held) // 2), "test": (test, 2000)}
    return {name: measure(*_features(run, source), draws, size) for name, (source, size) in parts.items()}


def interval(values: list[float]) -> tuple[float, float]:
    """(mean, two standard errors)."""
    return statistics.mean(values), 2 * statistics.stdev(values) / len(values) ** 0.5


def best(found: Accuracies) -> str:
    """What `auto` should be: of the methods that are not surely behind the best one, the one that costs least."""
    means = {method: np.mean([found[method][str(number)] for number in LABELS], axis=0) for method in CHEAPEST_FIRST}
    leader = max(means.values(), key=lambda values: float(values.mean()))
    for method, values in means.items():
        behind, error = interval(list(leader - values)) if values is not leader else (0.0, 0.0)
        if behind <= error:
            return method
    raise AssertionError("the best one is not behind itself")


def table(studied: dict[str, Accuracies]) -> str:
    """The table of the page."""
    parts = list(studied)
    heads = [f"{part}, {number} labels" for part in parts for number in LABELS]
    lines = ["| method | " + " | ".join(heads) + " |", "| --- |" + " --: |" * len(heads)]
    chosen = best(studied["held-out"])
    for method in METHODS:
        cells = []
        for part in parts:
            for number in map(str, LABELS):
                values, chance = studied[part][method][number], studied[part]["random"][number]
                mean, error = interval(values)
                cell = f"{mean:.1f} ± {error:.1f}"
                if method != "random":
                    gain, spread = interval([a - b for a, b in zip(values, chance, strict=True)])
                    cell += f" ({gain:+.1f} ± {spread:.1f})".replace("-", "−")
                cells.append(cell)
        lines.append(f"| {f'**{method}**' if method == chosen else method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="the demo's run; without it the page is filled from the file")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--study", type=Path, default=DOCS / "pick_study.json")
    parser.add_argument("--page", type=Path, default=DOCS / "thirty_labels.md")
    asked = parser.parse_args()
    if asked.run:
        torch.set_num_threads(1)
        asked.study.write_text(json.dumps(study(asked.run, asked.draws)) + "\n")
    studied = json.loads(asked.study.read_text())
    text = table(studied)
    print(text, end="")
    if asked.page.exists():
        page = asked.page.read_text()
        asked.page.write_text(PART.sub(lambda found: found[1] + text + found[2], page))


if __name__ == "__main__":
    main()
