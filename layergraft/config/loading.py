"""Read a recipe: from its YAML file, with changes from the command line, checked and complete."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from layergraft.config.check import takes_list, type_at, unknown_keys
from layergraft.config.data import ViewConfig
from layergraft.config.paths import expanded
from layergraft.config.protocols import PROTOCOLS, lay_over
from layergraft.config.recipe import EngineConfig, EvaluateConfig, Recipe
from layergraft.config.stage import EITHER, StageConfig, without_other
from layergraft.config.supervised import ClassifyConfig
from layergraft.config.yaml_text import NotYaml, item_type, read_yaml, takes_text_alone, write_yaml
from layergraft.errors import UserError, nearest

RECIPES = Path(__file__).with_name("recipes")
_HINTS = get_type_hints(EvaluateConfig)
EVALUATE_CHOICES = {name: get_args(get_args(_HINTS[name])[0]) for name in ("protocols", "variant", "pooling")}
"""Options of `layergraft evaluate` -> the words that each knows."""
Overrides = Mapping[str, Any]
"""Dotted key of a recipe -> value."""


def parse_value(text: str, expected: Any = Any) -> Any:
    """A value of the command line, as YAML reads it (`3`, `1e-3`, `true`, `null`, `[1, 2]`, `text`).

    Args:
        text: the value.
        expected: type of its key. Where that holds text alone, the value is the text as it stands, or null.
    """
    try:
        value = read_yaml(text, expected)
    except NotYaml:
        return text
    if takes_list(expected) and value is not None and not isinstance(value, list):
        return parse_value(text, item_type(expected))  # the only item
    return text if value is not None and takes_text_alone(expected) else value


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_text(recipe: str | Path) -> str:
    """The text of a recipe, by name or file."""
    path = expanded(recipe)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"There is no recipe file {str(path)!r}.", "Check the path, or give a recipe's name.")
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise UserError(f"Recipe {str(path)!r} cannot be read: {reason}.", "Mend or replace the file.") from None
    if str(recipe) not in recipe_names():
        raise UserError(
            f"There is no recipe {str(recipe)!r}.",
            nearest(str(recipe), recipe_names()) + " `layergraft plan` lists them; a file ends in .yaml.",
        )
    return (RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8")


def _set(raw: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a dotted key to a value of the command line or of Python."""
    first, *rest = dotted.split(".")
    # A dash is an underscore, but in the name of a stage.
    keys = [key if first == "stages" and place == 0 else key.replace("-", "_") for place, key in enumerate(rest)]
    keys = [first.replace("-", "_"), *keys]
    expected = type_at(Recipe, raw, keys)
    if isinstance(value, str):
        value = parse_value(value, expected)
    elif isinstance(value, (list, tuple)):
        value = [parse_value(part, item_type(expected)) if isinstance(part, str) else part for part in value]
    elif isinstance(value, Mapping):  # a copy: later keys may change what is in it
        value = msgspec.to_builtins(dict(value))
    if takes_list(expected) and not isinstance(value, list) and value is not None:
        value = [value]
    parent = raw
    for key in keys[:-1]:
        if not isinstance(parent.get(key), dict):
            parent[key] = {}
        parent = parent[key]
    parent[keys[-1]] = value


def _merge_views(raw: Mapping[str, Any], stage: StageConfig, where: str) -> StageConfig:
    """Lay the changed fields of a stage's views over the objective's own."""
    defaults = stage.objective.views
    changes = raw.get("views") or {}
    views = {}
    for view in changes:
        if view not in defaults:
            raise UserError(f"`{where}.views` has no view {view!r}.", nearest(view, defaults))
    for view, default in defaults.items():
        views[view] = msgspec.convert(msgspec.to_builtins(default) | (changes.get(view) or {}), ViewConfig)
    return msgspec.structs.replace(stage, views=views)


def _lay_protocols(raw: dict[str, Any]) -> None:
    """Complete the stages of the trained protocols, so that any of their keys can be set."""
    if isinstance(raw, dict):
        for name, default in PROTOCOLS.items():
            if raw.get(name) is None or isinstance(raw[name], Mapping):
                raw[name] = lay_over(default, raw.get(name) or {})


def _convert_evaluate(raw: dict[str, Any]) -> EvaluateConfig:
    """A complete EvaluateConfig; stages of protocols that are not asked for are left out."""
    config = msgspec.convert({key: part for key, part in raw.items() if key not in PROTOCOLS}, EvaluateConfig)
    stages = {
        name: _merge_views(raw[name], msgspec.convert(raw[name], StageConfig), f"evaluate.{name}")
        for name in config.trained_stages
    }
    linear = stages.get("linear")
    if linear is not None and isinstance(linear.objective, ClassifyConfig) and linear.objective.block is None:
        objective = msgspec.structs.replace(linear.objective, block=config.block)
        stages["linear"] = msgspec.structs.replace(linear, objective=objective)
    return msgspec.structs.replace(config, **stages)


def load_recipe(recipe: str | Path | Mapping[str, Any], overrides: Overrides | None = None) -> Recipe:
    """Read, change and check a recipe.

    Args:
        recipe: a name, a YAML file, or the content of one.
        overrides: dotted key -> value; text is read as YAML, so that the command line can pass its words on.

    Returns:
        The complete recipe: every default is filled in.

    Raises:
        UserError: an unknown recipe, stage or key (with the nearest valid name), or a value of the wrong type.
    """
    if isinstance(recipe, Mapping):
        raw: Any = msgspec.to_builtins(dict(recipe))
    else:
        try:
            raw = read_yaml(recipe_text(recipe), Recipe)
        except NotYaml as error:
            raise UserError(f"Recipe {str(recipe)!r} is not valid YAML: {error}.", "Nothing was changed.") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("stages"), dict) or not raw["stages"]:
        raise UserError("The recipe has no `stages`.", "Give at least one: `stages: {mae: {objective: {name: mae}}}`.")
    return _load(raw, overrides or {})


def says_how_it_held_out(run: Path) -> bool:
    """Whether the recipe of a run directory has the key `data.holdout_by`, which earlier versions did not know."""
    try:
        text = (run / "recipe.yaml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True  # whoever reads it will say what is wrong
    return re.search(r"\bholdout_by:", text) is not None


def held_out_by_class(recipe: Recipe) -> Recipe:
    """The same recipe, as versions without the key `data.holdout_by` carried it out."""
    return msgspec.structs.replace(recipe, data=msgspec.structs.replace(recipe.data, holdout_by="class"))


def read_run_recipe(run: Path) -> Recipe:
    """The recipe that a run directory was made from; without `data.holdout_by` it held out by class.

    Raises:
        UserError: it is not a recipe of this version.
    """
    file = run / "recipe.yaml"
    try:
        recipe = load_recipe(file)
        return recipe if says_how_it_held_out(run) else held_out_by_class(recipe)
    except UserError as error:
        raise UserError(
            f"{str(file)!r} cannot be read: {error.problem}",
            "It was written by another version of layergraft, or changed by hand. Nothing was changed.",
        ) from None


def load_evaluate(fields: Mapping[str, Any], overrides: Mapping[str, Any]) -> tuple[EvaluateConfig, EngineConfig]:
    """Read what `layergraft evaluate` measures, and how what it trains is carried out.

    Args:
        fields: those of `EvaluateConfig`.
        overrides: dotted key of a trained protocol's stage (`finetune.epochs`), or of the engine, -> value.

    Raises:
        UserError: an unknown key, or a value of the wrong type.
    """
    for option, known in EVALUATE_CHOICES.items():
        for word in fields.get(option, ()):
            if word not in known:
                raise UserError(f"--{option} cannot be {word!r}.", nearest(str(word), known))
    raw = {"evaluate": dict(fields), "stages": {}}
    dotted = {key if key.startswith("engine.") else f"evaluate.{key}": value for key, value in overrides.items()}
    recipe = _load(raw, dotted)
    assert recipe.evaluate is not None
    return recipe.evaluate, recipe.engine


def _named(path: str, raw: dict[str, Any]) -> str:
    """A path of msgspec's in a recipe that was found wrong. It leaves out the free names: `stages[...].plan`."""
    while "[...]" in path:
        before, _, after = path.partition("[...]")
        keys = before.split(".")
        parent = reduce(lambda part, key: part[key], keys, raw)
        name = next(key for key, part in parent.items() if not _converts(part, type_at(Recipe, raw, [*keys, key])))
        path = f"{before}.{name}{after}"
    return path


def _converts(raw: Any, expected: Any) -> bool:
    try:
        msgspec.convert(raw, expected)
    except msgspec.ValidationError:
        return False
    return True


def _drop_other_lengths(raw: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Where an override gives a stage's length in steps, the recipe's in epochs no longer counts, and so on."""
    changes: dict[str, dict[str, Any]] = {}
    for dotted, value in overrides.items():
        where, _, key = dotted.replace("-", "_").rpartition(".")
        if key in EITHER:
            changes.setdefault(where, {})[key] = None if value in (None, "null") else value
    for where, changed in changes.items():
        group, _, name = where.partition(".")
        stage = next((part for key, part in (raw.get(group) or {}).items() if key.replace("-", "_") == name), None)
        if isinstance(stage, dict):
            stage |= without_other(changed)


def _load(raw: dict[str, Any], overrides: Mapping[str, Any]) -> Recipe:
    if raw.get("evaluate", {}) is not None:
        raw.setdefault("evaluate", {})
        _lay_protocols(raw["evaluate"])
    for dotted, value in overrides.items():
        _set(raw, dotted, value)
    _drop_other_lengths(raw, overrides)
    for path, hint in unknown_keys(Recipe, raw):
        raise UserError(f"The recipe has an unknown key `{path}`.", hint)
    for name in raw["stages"]:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", str(name)):
            raise UserError(f"{name!r} is no name for a stage.", "Use letters, digits, '-' and '_': it names a folder.")
    try:
        recipe = msgspec.convert(raw, Recipe)
        stages = {
            name: _merge_views(raw["stages"][name], stage, f"stages.{name}") for name, stage in recipe.stages.items()
        }
        evaluate = None if recipe.evaluate is None else _convert_evaluate(raw["evaluate"])
        return msgspec.structs.replace(recipe, stages=stages, evaluate=evaluate)
    except UnicodeEncodeError as error:
        raise UserError(f"{str(error.object)!r} in the recipe holds half a character.", "Type it again.") from None
    except msgspec.ValidationError as error:
        problem, _, position = str(error).partition(" - at ")
        path = _named(position.strip("`").rpartition("$.")[2], raw)
        where = f"`{path}` in the recipe" if path else "The recipe"
        hint = "A truth value is `true` or `false`." if problem.startswith("Expected `bool`, got `str`") else ""
        raise UserError(f"{where} is wrong: {problem[:1].lower()}{problem[1:]}.", hint) from None


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML; loading it gives the same recipe."""
    return write_yaml(msgspec.to_builtins(recipe))


def recipe_hash(recipe: Recipe) -> str:
    """A short name for a resolved recipe that changes with any of its keys."""
    return hashlib.blake2b(dump_recipe(recipe).encode(), digest_size=8).hexdigest()
