"""What a study varies: a YAML file of arms, each some keys of a recipe with other values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from layergraft.commands.study.study_file import Choose
from layergraft.config.base import Config
from layergraft.config.check import unknown_keys
from layergraft.config.paths import read_regular
from layergraft.config.yaml_text import NotYaml, read_yaml
from layergraft.errors import UserError
from layergraft.runs.readable import slug

RECIPE = "recipe"  # the key of an arm that names another recipe
FIXED = {
    "seed": "The command's --seeds gives the seeds of all arms.",
    "start": "Give --start to the command: all arms start from the same weights.",
    "stages": "Name single keys, for instance stages.graft.plan.lr_scale.",
    "evaluate": "All arms are measured alike; change it for all of them: --evaluate.shots 1 5.",
    "analyze": "A study analyses nothing.",
    "monitor": "A study looks at nothing while it trains.",
    "engine": "It is the same for all arms: --engine.precision bf16.",
}
FIXED_DATA = ("source", "holdout", "holdout_by")
_TAKEN = {"random": "random weights", "pixels": "pixels"}  # names of what is measured untrained
_HINT = "For instance: `arms: {slow: {stages.graft.plan.lr_scale: [0.3, 0.3, 1]}}`."


_Keys = dict[str, Any]
_List = list[_Keys]  # the record below has a field `list`
_Grid = dict[str, list[Any]]


class VaryFile(Config, frozen=True, kw_only=True):
    """The content of the file; its arms are those of all three kinds.

    Args:
        arms: name -> dotted recipe key -> value; `{}` is the recipe as it is.
        list: the same without names.
        grid: dotted recipe key -> values; an arm for every combination.
        reference: the arm that all others are compared with; the first one where it is not given.
        search: factors of the learning rate of each arm's last stage, tried on held-out images; one alone is taken.
        trial: length of a trial, as a part of the arm's last stage.
        equal: what the arms have in common: `epochs`, the lengths of their recipes; `compute`, the operations of the
            reference; or both.
        choose: by what rates and the best arm are chosen: `held_out`, few labels on held-out images; `label_free`, how
            well single held-out images are recognised by few views of each, which needs no label and no test images.
        scores: whether scores that need no label are measured as well, and how they rank arms and trials.
    """

    arms: dict[str, _Keys | None] = {}
    list: _List = []
    grid: _Grid = {}
    reference: str | None = None
    search: tuple[float, ...] | float = (0.5, 1.0, 2.0)
    trial: float = 1 / 3
    equal: Literal["epochs", "compute"] | tuple[Literal["epochs", "compute"], ...] = "epochs"
    choose: Choose = "held_out"
    scores: bool = False


@dataclass(frozen=True, kw_only=True)
class Varied:
    """One arm of the file.

    Args:
        name: what files call it.
        title: what the file calls it, or its keys in short.
        recipe: another recipe than the command's; None is the command's.
        changes: dotted key -> value.
        dropped: stages that it leaves out.
    """

    name: str
    title: str
    recipe: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()

    @property
    def in_words(self) -> str:
        """Its keys and values."""
        parts = [f"recipe {self.recipe}"] if self.recipe else []
        parts += [f"{key.removeprefix('stages.')} {_short(value)}" for key, value in self.changes.items()]
        parts += [f"without stage {stage}" for stage in self.dropped]
        return "; ".join(parts) or "the recipe as it is"


@dataclass(frozen=True, kw_only=True)
class Vary:
    """What a study varies, read.

    Args:
        arms: in the order of the file.
        reference: name of the arm that the others are compared with.
        factors: of the search.
        trial: length of a trial, as a part of the arm's last stage.
        budgets: what the arms have in common.
        choose: by what rates and the best arm are chosen.
        scores: whether scores that need no label are measured.
    """

    arms: list[Varied]
    reference: str
    factors: tuple[float, ...]
    trial: float
    budgets: tuple[Literal["epochs", "compute"], ...]
    choose: Choose
    scores: bool


def read_vary(path: Path) -> Vary:
    """Read and check the file, but for the recipes that its arms make.

    Raises:
        UserError: it cannot be read, or an arm or key in it is wrong.
    """
    try:
        raw = read_yaml(read_regular(path).decode("utf-8"), VaryFile)
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror}.", "Check --vary.") from None
    except UnicodeDecodeError:
        raise UserError(f"{str(path)!r} cannot be read: it is not UTF-8.", "Mend or replace the file.") from None
    except NotYaml as error:
        raise UserError(f"{str(path)!r} is not valid YAML: {error}.", _HINT) from None
    return parse_vary(raw, str(path))


def parse_vary(raw: Any, path: str) -> Vary:
    """The same of content that is read.

    Args:
        raw: the content.
        path: of the file, for messages.
    """
    if not isinstance(raw, Mapping):
        raise UserError(f"{path!r} has no arms.", _HINT)
    for key, hint in unknown_keys(VaryFile, raw):
        raise UserError(f"{path!r} has an unknown key `{key}`.", hint)
    try:
        content = msgspec.convert(raw, VaryFile)
    except msgspec.ValidationError as error:
        raise UserError(f"{path!r} is wrong: {error}.", _HINT) from None
    arms = list(_arms(content))
    if len(arms) < 2:
        raise UserError(f"{path!r} has {'one arm' if arms else 'no arm'}: there is nothing to compare.", _HINT)
    _refuse_twins(arms, path)
    factors = content.search if isinstance(content.search, tuple) else (content.search,)
    if not factors or not all(0 < factor < math.inf for factor in factors) or len(set(factors)) < len(factors):
        raise UserError(
            f"`search` in {path!r} needs finite factors above 0, each once.", "For instance: `search: [0.5, 1, 2]`."
        )
    if not 0 < content.trial <= 1:
        raise UserError(
            f"`trial` in {path!r} is a part of a length: above 0, at most 1.", "For instance: `trial: 0.5`."
        )
    equal = (content.equal,) if isinstance(content.equal, str) else content.equal
    if not equal:
        raise UserError(f"`equal` in {path!r} is empty.", "Give epochs, compute, or both: `equal: [epochs, compute]`.")
    budgets = tuple(budget for budget in ("epochs", "compute") if budget in equal)
    return Vary(
        arms=arms,
        reference=_reference(content.reference, arms, path),
        factors=factors,
        trial=content.trial,
        budgets=budgets,
        choose=content.choose,
        scores=content.scores,
    )


def _arms(content: VaryFile) -> Iterator[Varied]:
    for title, keys in content.arms.items():
        yield _varied(str(title), keys or {}, named=True)
    for number, keys in enumerate(content.list, start=1):
        yield _varied(_title(keys) or f"arm {number}", keys)
    if content.grid:
        combinations: Iterator[tuple[Any, ...]] = itertools.product(*content.grid.values())
        for values in combinations:
            keys = dict(zip(content.grid, values, strict=True))
            yield _varied(_title(keys), keys)


def _varied(title: str, keys: Mapping[str, Any], *, named: bool = False) -> Varied:
    name = slug(title).strip("-.") or "arm"
    if named and (name in _TAKEN or name.endswith("_compute")):
        raise UserError(f"No arm can be called {title!r}: a study calls something else so.", "Give it another name.")
    changes = {str(key).replace("-", "_") if "." not in str(key) else str(key): part for key, part in keys.items()}
    recipe = changes.pop(RECIPE, None)
    if recipe is not None and not isinstance(recipe, str):
        raise UserError(f"Arm {title!r}: `recipe` is a name or a file, not {recipe!r}.")
    for key in changes:
        group, _, inner = key.partition(".")
        if group in FIXED and (group != "stages" or not inner):
            raise UserError(f"Arm {title!r} cannot change `{key}`.", FIXED[group])
        if group == "data" and (inner in FIXED_DATA or not inner):
            raise UserError(f"Arm {title!r} cannot change `{key}`.", "All arms train on the same images: --data.")
    dropped = tuple(key.partition(".")[2] for key, value in changes.items() if _is_stage(key) and value is None)
    kept = {key: value for key, value in changes.items() if not (_is_stage(key) and value is None)}
    for key in filter(_is_stage, kept):
        raise UserError(f"Arm {title!r}: `{key}` is a whole stage.", f"Name single keys, or leave it out: {key}: null.")
    return Varied(name=name, title=title, recipe=recipe, changes=kept, dropped=dropped)


def _is_stage(key: str) -> bool:
    return key.startswith("stages.") and key.count(".") == 1


def _title(keys: Mapping[str, Any]) -> str:
    """`lr_scale 0.3, 0.3, 1, mask_ratio 0.6`: the last word of each key where that says which one it is."""
    words = [str(key) for key in keys]
    short = [_shortest(word, words) for word in words]
    return ", ".join(f"{name} {_short(value)}" for name, value in zip(short, keys.values(), strict=True))


def _shortest(word: str, words: Sequence[str]) -> str:
    parts = word.split(".")
    for count in range(1, len(parts)):
        end = ".".join(parts[-count:])
        if sum(other == end or other.endswith("." + end) for other in words) == 1:
            return end
    return word


def _short(value: Any) -> str:
    """A value as people write it: `0.3, 0.3, 1`, `decay 0.65`."""
    if isinstance(value, Mapping):
        return " ".join(f"{key} {_short(part)}" for key, part in value.items()) or "{}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_short, value))
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _refuse_twins(arms: list[Varied], path: str) -> None:
    """Names that files would confuse."""
    seen: dict[str, str] = {}
    for arm in arms:
        if arm.name.lower() in seen:
            raise UserError(
                f"Arms {seen[arm.name.lower()]!r} and {arm.title!r} in {path!r} would share a directory.",
                "Give one of them another name, under `arms`.",
            )
        seen[arm.name.lower()] = arm.title


def _reference(reference: str | None, arms: list[Varied], path: str) -> str:
    if reference is None:
        return arms[0].name
    for arm in arms:
        if reference in (arm.title, arm.name):
            return arm.name
    named = ", ".join(repr(arm.title) for arm in arms)
    raise UserError(f"`reference` in {path!r} is {reference!r}, which is no arm.", f"The arms: {named}.")
