"""Recipes with anything in place of their values, as files and from the command line: no command ends with a bug."""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import two_classes
from fuzzing import bug, distinct, mutate

from layergraft.config import dump_recipe, load_recipe
from layergraft.config.loading import recipe_names

SEEDS = range(7200, 7220)
PER_SEED = 200
SMALL: dict[str, Any] = {"encoder.img_size": 32, "encoder.patch_size": 8, "encoder.embed_dim": 24}
SMALL |= {"encoder.num_heads": 3, "encoder.in_chans": 3, "data.holdout": 6, "data.workers": 0, "start": None}
# Neither so large that a run of it would only be long, nor so many processes that the machine would stand still.
LEAVES: list[Any] = [None, True, False, -1, 0, 1, 2, 3, 7, 0.5, -0.5, 1e-300, 1e300, float("nan"), float("inf"), 10**20]
LEAVES += [
    "",
    "x",
    "null",
    "1e999",
    "0x10",
    "½",
    "a" * 3000,
    "é\u202e😀",
    "previous",
    "fresh",
    "auto",
    "all",
    "/",
    "mae",
]
LEAVES += [[], [1], [1, 2, 3], [None], [[1]], [-1.0], ["x"], {}, {"x": 1}, {"blocks": 2}, {"blocks": [1, 1]}, {1: 2}]
LEAVES += [{"decay": 0.5}, {"decay": -1}, {"name": "moco"}, {"name": "x"}, {"name": None}, {"norm": "l1", "weight": -1}]
LEAVES += [
    {"": {"": {"": []}}},
    [{}],
    [0.5, 0.5],
    [2, 1],
    "2024-01-01",
    10**7,
    "knn",
    ["knn", "knn"],
    "1%",
    "0%",
    "101%",
]
WORDS = [
    "",
    "nan",
    "-1",
    "1e999",
    "[",
    "{",
    "{}",
    "[]",
    "null",
    "~",
    "!!python/object:os.system",
    "&a [*a]",
    "*x",
    "0b1",
]
WORDS += [
    "99999999999999999999",
    "'",
    "é",
    "a: b: c",
    "- x",
    "%",
    "@",
    "`",
    "0.5",
    "2",
    "true",
    "[1, [2]]",
    "{a: 1}",
    "\ud800",
]


def paths_of(tree: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every value of a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*before, key)
        yield from paths_of(value, (*before, key))


def mutate_tree(tree: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Replace, drop, add or rename a value or two."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        path = rng.choice(list(paths_of(tree)) or [()])
        parent: Any = tree
        for key in path[:-1]:
            parent = parent[key]
        kind = rng.random()
        if not path:
            continue
        if kind < 0.7:
            parent[path[-1]] = copy.deepcopy(rng.choice(LEAVES))
        elif kind < 0.8:
            del parent[path[-1]]
        elif isinstance(parent, dict):
            parent[rng.choice(["x", "", "name", 1, None, "lr", "É", "epochs"])] = copy.deepcopy(rng.choice(LEAVES))
        else:
            parent.extend(parent[:])
    return tree


def text_of(tree: dict[str, Any], rng: random.Random) -> bytes:
    """The recipe's file, sometimes damaged."""
    text = yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass")
    if rng.random() < 0.02:
        text += b"\nx: " + rng.choice([b"[", b"{a: ", b"- "]) * rng.choice([500, 20_000])
    return mutate(text, rng) if rng.random() < 0.1 else text


def overrides_of(tree: dict[str, Any], rng: random.Random) -> list[str]:
    """Options of the command line that set keys of a recipe, sometimes mis-spelt."""
    words: list[str] = []
    for _ in range(rng.choice([0, 0, 1, 2])):
        dotted = ".".join(map(str, rng.choice(list(paths_of(tree)))))
        dotted = (
            dotted if rng.random() < 0.9 else rng.choice([dotted + ".x", dotted[:-1], "." + dotted, dotted + ".", "="])
        )
        values = [rng.choice(WORDS + [str(leaf) for leaf in LEAVES]) for _ in range(rng.choice([0, 1, 1, 1, 2]))]
        words += [f"--{dotted}", *values]
    return words


def fuzz(root: Path, seed: int, count: int) -> dict[str, str]:
    """Bug -> the recipe and command that met it."""
    images, names = two_classes(root / "images", 24), recipe_names()
    trees: dict[str, Any] = {}
    (root / "recipes").mkdir()

    def tries() -> Iterator[tuple[str, str]]:
        for number in range(count):
            rng = random.Random(1_000_000 * seed + number)
            name = rng.choice(names)
            if name not in trees:
                trees[name] = yaml.safe_load(dump_recipe(load_recipe(name, SMALL)))
            tree = mutate_tree(copy.deepcopy(trees[name]), rng)
            file = root / "recipes" / f"{seed}-{number}.yaml"
            file.write_bytes(text_of(tree, rng))
            words = ["--recipe", str(file), *overrides_of(trees[name], rng)]
            words += ["--data", str(images)] if rng.random() < 0.8 else []
            if rng.random() < 0.25 and name.startswith("fashion"):
                shutil.rmtree(root / "run", ignore_errors=True)
                # Long runs are no bug, and hundreds of processes are what was asked for.
                short = ["--data.workers", "0", *(part for stage in ("mae", "graft") for part in epochs(tree, stage))]
                yield bug(["train", *words, *short, "--out", str(root / "run")], ends=False), f"{file}: {words}"
            else:
                yield bug(["plan", *words]), f"{file}: {words}"

    return distinct(tries())


def epochs(tree: Any, stage: str) -> list[str]:
    """One epoch of a stage, if the recipe has it."""
    stages = tree.get("stages")
    return [f"--stages.{stage}.epochs", "1"] if isinstance(stages, dict) and stage in stages else []


def test_a_sample_of_recipes(tmp_path: Path) -> None:
    assert fuzz(tmp_path, 7000, 5) == {}


@pytest.mark.soak
@pytest.mark.parametrize("seed", SEEDS)
def test_recipes(tmp_path: Path, seed: int) -> None:
    assert fuzz(tmp_path, seed, PER_SEED) == {}
