"""Read and write YAML 1.2 with ruamel.yaml; a value is read as what its key holds.

Without quotes `2024`, `true` or `007` may be a number, a truth value or a name: which one, the key's type says.
"""

from __future__ import annotations

import io
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from layergraft.config.check import fields, members, select
from layergraft.errors import UserError

_NUMBERS = (bool, int, float)


class NotYaml(ValueError):
    """A text is not valid YAML; says why, and in which line."""


class _Plain(NamedTuple):
    """A number or truth value, and how the YAML text writes it."""

    value: Any
    text: str


@cache
def _constructor() -> Any:
    """ruamel.yaml's safe constructor, which keeps the text of numbers and truth values here.

    No key of a recipe holds a date: what looks like one is text.
    """
    from ruamel.yaml.constructor import SafeConstructor

    class Constructor(SafeConstructor):
        pass

    def keep_text(construct: Callable[[Any, Any], Any]) -> Callable[[Any, Any], _Plain]:
        return lambda constructor, node: _Plain(construct(constructor, node), node.value)

    for kind in ("bool", "int", "float"):
        tag = f"tag:yaml.org,2002:{kind}"
        Constructor.add_constructor(tag, keep_text(SafeConstructor.yaml_constructors[tag]))
    Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)
    return Constructor


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.version = "1.2"
    yaml.Constructor = _constructor()
    return yaml


def _parse(text: str) -> Any:
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return _yaml().load(text)
    except DuplicateKeyError as error:
        key = text.splitlines()[error.problem_mark.line].strip()
        raise NotYaml(f"line {error.problem_mark.line + 1} gives a key a second time: {key}") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise NotYaml(f"line {mark.line + 1}: {error.problem}" if mark else str(error.problem)) from None
    except (YAMLError, ValueError) as error:
        raise NotYaml(str(error).partition("\n")[0]) from None


def takes_text_alone(expected: Any) -> bool:
    """Whether a value of this type is text (or null), never a number or truth value."""
    if expected is Any:
        return False
    options = [word for part in members(expected) for word in _literals(part)]
    return any(option is str or isinstance(option, str) for option in options) and not any(
        option in _NUMBERS or isinstance(option, _NUMBERS) for option in map(_without_range, options)
    )


def _literals(part: Any) -> tuple[Any, ...]:
    return typing.get_args(part) if typing.get_origin(part) is typing.Literal else (part,)


def _without_range(part: Any) -> Any:
    return typing.get_args(part)[0] if typing.get_origin(part) is typing.Annotated else part


def _mapping_types(value: Mapping[str, Any], expected: Any) -> Callable[[str], Any]:
    """Key -> type of its value, in a mapping that is to become `expected`; `Any` where that cannot be told."""
    for part in members(expected):
        if typing.get_origin(part) is dict:
            return lambda key: typing.get_args(part)[1]
    try:
        struct = select(expected, value, "")
    except UserError:  # which the check of the whole recipe words
        struct = None
    known = fields(struct) if struct else {}
    return lambda key: known.get(key, str if key == "name" else Any)


def item_type(expected: Any) -> Any:
    """Type of the items of a list; those of a range are alike."""
    lists = [part for part in members(expected) if typing.get_origin(part) in (list, tuple)]
    return typing.get_args(lists[0])[0] if lists else Any


def _as_type(value: Any, expected: Any) -> Any:
    """Parsed YAML with each number and truth value as `expected` has it: itself, or its text."""
    if isinstance(value, _Plain):
        return value.text if takes_text_alone(expected) else value.value
    if isinstance(value, Mapping):
        named = {key.text if isinstance(key, _Plain) else str(key): part for key, part in value.items()}
        if isinstance(named.get("name"), _Plain):
            named["name"] = named["name"].text
        type_of = _mapping_types(named, expected)
        return {key: _as_type(part, type_of(key)) for key, part in named.items()}
    if isinstance(value, list):
        item = item_type(expected)
        return [_as_type(part, item) for part in value]
    return value


def read_yaml(text: str, expected: Any = Any) -> Any:
    """What a YAML text holds.

    Args:
        text: the YAML.
        expected: the type that it is to be converted to: a number where that has text is read as its text.

    Returns:
        Dicts, lists, text, numbers, truth values and None; the keys of dicts are text.

    Raises:
        NotYaml: it is not valid YAML, or gives a key twice.
    """
    try:
        return _as_type(_parse(text), expected)
    except RecursionError:
        raise NotYaml("it is nested too deeply, or holds itself") from None


def write_yaml(value: Any) -> str:
    """Builtins as YAML that versions 1.1 and 1.2 read alike: `"no"` and `"2024"` are quoted where they are text."""
    from ruamel.yaml import YAML

    yaml: Any = YAML(typ="safe", pure=True)
    yaml.version = "1.1"
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 120
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue().partition("---\n")[2]  # after the line that would name the version
