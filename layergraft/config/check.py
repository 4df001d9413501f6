"""Walk raw configuration beside its type: find misspelt keys, and what type a dotted path has."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from layergraft.errors import UserError, nearest

# What other programs call some keys.
SHORT_NAMES = {"lr": "base_lr", "learning_rate": "base_lr", "wd": "weight_decay", "bs": "batch_size"}
SHORT_NAMES |= {"num_workers": "workers", "num_epochs": "epochs", "image_size": "img_size", "model": "name"}
# What is no matter of a recipe, and what to do instead.
NO_KEYS = {
    "device": "A GPU is used where there is one; CUDA_VISIBLE_DEVICES says which, and is empty for none.",
    "gpus": "One process a GPU: start the command with torchrun --nproc-per-node N, or with srun.",
}


def dotted(value: Any, path: str = "") -> dict[str, Any]:
    """A nested mapping as dotted key -> value; an empty mapping is a value."""
    if isinstance(value, Mapping) and value:
        values: dict[str, Any] = {}
        for key, part in value.items():
            values |= dotted(part, f"{path}.{key}" if path else str(key))
        return values
    return {path: value}


def dotted_text(value: Any) -> dict[str, str]:
    """Likewise with each value as text."""
    return {key: str(part) for key, part in dotted(value).items()}


def members(expected: Any) -> list[Any]:
    """The alternatives of a type, without what it says of their range: the parts of a union, else the type itself."""
    if typing.get_origin(expected) is typing.Annotated:
        return members(typing.get_args(expected)[0])
    if typing.get_origin(expected) in (typing.Union, types.UnionType):
        return [part for part in typing.get_args(expected) if part is not type(None)]
    return [expected]


def fields(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Field name -> type of a configuration record."""
    return {field.name: field.type for field in msgspec.structs.fields(struct)}


def structs(expected: Any) -> list[type[msgspec.Struct]]:
    return [part for part in members(expected) if isinstance(part, type) and issubclass(part, msgspec.Struct)]


def _tag(struct: type[msgspec.Struct]) -> str | None:
    tag = struct.__struct_config__.tag
    return tag if isinstance(tag, str) else None


def select(expected: Any, value: Mapping[str, Any], path: str) -> type[msgspec.Struct] | None:
    """The record type that a mapping is meant to be; None where a mapping of free names is expected."""
    options = structs(expected)
    if not options:
        return None
    if len(options) == 1 and _tag(options[0]) is None:
        return options[0]
    by_tag = {_tag(option): option for option in options}
    name = value.get("name")
    if not isinstance(name, str) or name not in by_tag:  # a list has no place in a dict
        names = sorted(tag for tag in by_tag if tag)
        if name is None:
            raise UserError(f"`{path}` has no `name`.", f"Valid: {', '.join(names)}.")
        raise UserError(f"`{path}.name` is {name!r}, which does not exist.", nearest(str(name), names))
    return by_tag[name]


def unknown_keys(expected: Any, value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted path, hint) for every key that the type does not have."""
    if not isinstance(value, Mapping):
        return
    mapping = [part for part in members(expected) if typing.get_origin(part) is dict]
    struct = None if mapping else select(expected, value, path)
    if struct is not None:
        known = fields(struct)
        tagged = {"name"} if _tag(struct) else set()
        for key, part in value.items():
            inner = f"{path}.{key}" if path else str(key)
            if key in known:
                yield from unknown_keys(known[key], part, inner)
            elif key not in tagged:
                yield inner, nearest(str(key), known.keys() | tagged)
    elif mapping:
        for key, part in value.items():
            yield from unknown_keys(typing.get_args(mapping[0])[1], part, f"{path}.{key}" if path else str(key))


def type_at(expected: Any, value: Any, keys: list[str], path: str = "") -> Any:
    """The type of a dotted path below raw configuration.

    Args:
        expected: type of `value`.
        value: the raw configuration, which says what members of unions are and which free names exist.
        keys: the rest of the path.
        path: the path so far, for messages.

    Raises:
        UserError: a key does not exist; free names (stages) must exist already, so that a misspelt one adds nothing.
    """
    if not keys:
        return expected
    key, inner = keys[0], f"{path}.{keys[0]}" if path else keys[0]
    mapping = [part for part in members(expected) if typing.get_origin(part) is dict]
    raw = value if isinstance(value, Mapping) else {}
    if mapping:
        value_type = typing.get_args(mapping[0])[1]
        if path == "stages" and key not in raw:
            raise UserError(f"There is no stage {key!r} (`--{inner}`).", nearest(key, raw.keys()))
        return type_at(value_type, raw.get(key), keys[1:], inner)
    # A record that is not written in the recipe yet takes its place when one of its keys is set.
    struct = next(iter(structs(expected)), None) if not raw else select(expected, raw, path)
    if struct is None:
        raise UserError(f"`{path}` holds a single value; `--{inner}` does not exist.", f"Set `--{path}` itself.")
    known = fields(struct)
    if key == "name" and _tag(struct):
        return str
    if key not in known:
        raise UserError(f"There is no key `{inner}`.", _hint(expected, raw, key, path, known))
    return type_at(known[key], raw.get(key), keys[1:], inner)


def keys_ending(expected: Any, value: Any, name: str, path: str = "") -> Iterator[str]:
    """Yield every dotted key below raw configuration whose last part is a name, in the order of the recipe.

    Args:
        expected: type of `value`.
        value: the raw configuration, which says which stages there are.
        name: the last part.
        path: the path so far.
    """
    raw = value if isinstance(value, Mapping) else {}
    mapping = [part for part in members(expected) if typing.get_origin(part) is dict]
    records = structs(expected)
    if mapping:
        inside = dict.fromkeys(raw, typing.get_args(mapping[0])[1])
    elif len(records) == 1 or raw:
        struct = select(expected, raw, path) if raw else records[0]
        inside = {} if struct is None else fields(struct)
    else:
        inside = {}
    for key, part in inside.items():
        inner = f"{path}.{key}" if path else str(key)
        if key == name:
            yield inner
        yield from keys_ending(part, raw.get(key), name, inner)


def _hint(expected: Any, raw: Mapping[str, Any], key: str, path: str, known: Mapping[str, Any]) -> str:
    """What was meant by a key that does not exist: at the top of a recipe, often one of its stages."""
    if path:
        return nearest(key, known)
    if key in NO_KEYS:
        return NO_KEYS[key]
    meant = list(keys_ending(expected, raw, SHORT_NAMES.get(key, key)))
    return f"Set {', '.join(f'--{full}' for full in meant[:4])}." if meant else nearest(key, known)


def takes_list(expected: Any) -> bool:
    """Whether a value of this type can be a list, and nothing simpler."""
    return all(typing.get_origin(part) in (list, tuple) for part in members(expected))
