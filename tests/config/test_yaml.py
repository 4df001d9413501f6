"""YAML 1.2: what a value is, its key says; what is written, the version before reads as well."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from layergraft.commands.cli import main
from layergraft.config import dump_recipe, load_recipe, recipe_names
from layergraft.config.yaml_text import NotYaml, read_yaml, write_yaml
from layergraft.errors import UserError

NAMES = ("2024", "no", "1:30", "2024-01-01", "007", "1e3", "true", "0o14", "1_000", "2024-13-45", "3.0")
STAGE = "stages: {1: {objective: {name: mae}, epochs: 1e-3}}"


class PreviousLoader(yaml.SafeLoader):
    """How version 0.1.0 read a recipe: PyYAML with YAML 1.2's floats."""


PreviousLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"), list("-+.0123456789")
)
PreviousLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?\d+$"), list("-+0123456789"))
for _resolvers in PreviousLoader.yaml_implicit_resolvers.values():
    _resolvers.sort(key=lambda entry: entry[0] != "tag:yaml.org,2002:int")


def write(folder: Path, text: str) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("name", NAMES)
def test_names_that_look_like_numbers_stay_text(name: str, tmp_path: Path) -> None:
    read = load_recipe(write(tmp_path, f"data: {{source: {name}}}\nstart: {name}\n{STAGE}"))
    assert (read.data.source, read.start, read.stages["1"].epochs) == (name, name, 1e-3)
    rows = {"stages.1.plan.anchor.rows": name, "data.source": name}
    changed = load_recipe(write(tmp_path, STAGE), rows)
    assert changed.stages["1"].plan.anchor is not None
    assert (changed.data.source, changed.stages["1"].plan.anchor.rows) == (name, (name,))
    assert load_recipe(write(tmp_path, dump_recipe(read))) == read


def test_words_of_the_command_line_that_yaml_would_cut() -> None:
    for name in ("photos #1", "a: b", "[x]", "{000000..000003}.tar", "'quoted'"):
        assert load_recipe("fashion_paper", {"data.source": name}).data.source == name
    assert load_recipe("fashion_paper", {"data.source": "null"}).data.source is None


def test_command_line_takes_a_folder_called_by_a_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "--recipe", "fashion_paper", "--data", "2024"]) == 2
    message = capsys.readouterr().err
    assert "'2024'" in message  # there is no such folder, which is all that is wrong
    assert "expected `str" not in message


@pytest.mark.parametrize("name", recipe_names())
def test_dump_is_as_the_version_before_wrote_and_reads_it(name: str) -> None:
    recipe = load_recipe(name)
    builtins = msgspec.to_builtins(recipe)
    text = dump_recipe(recipe)
    assert text == yaml.safe_dump(builtins, sort_keys=False, allow_unicode=True, width=120)
    assert load_recipe(yaml.load(text, Loader=PreviousLoader)) == recipe


def test_text_is_quoted_for_either_version() -> None:
    held = {"source": list(NAMES), "no": {"x": "yes", "y": ["~", "null", "", "a: b", "- x", "é", "a\nb"]}}
    assert yaml.safe_load(write_yaml(held)) == held
    assert read_yaml(write_yaml(held), dict[str, list[str]])["source"] == list(NAMES)
    assert read_yaml(write_yaml(held))["no"] == held["no"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed: 1\nseed: 2\n" + STAGE, "line 2 gives a key a second time: seed: 2"),
        ("seed: [1\n" + STAGE, "line 2"),
        ("x: &x [*x]\n" + STAGE, "holds itself"),
        ("x: \x01\n" + STAGE, "not valid YAML"),
        ("x: " + "[" * 3000, "nested too deeply"),
        ("x: !!float foo\n" + STAGE, "not valid YAML"),
        ("x: !!python/object:os.system 1\n" + STAGE, "not valid YAML"),
        ("sed: 1\n" + STAGE, "Did you mean 'seed'?"),
        ("engine: {compile: yes}\n" + STAGE, "`true` or `false`"),
        ("stages: {a: {objective: {name: 3}}}", "`stages.a.objective.name` is '3'"),
        ("encoder: {name: 3, depth: no}\n" + STAGE, "`encoder.depth` in the recipe is wrong"),
    ],
)
def test_recipes_that_cannot_be_read(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        load_recipe(write(tmp_path, text))


def test_recipe_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(b"seed: \xff")
    with pytest.raises(UserError, match="not UTF-8"):
        load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("010", 10), ("1:30", "1:30"), ("on", "on"), ("True", True), ("~", None), ("[1, a]", [1, "a"])],
)
def test_values(text: str, value: Any) -> None:
    assert read_yaml(text) == value
    assert type(read_yaml(text)) is type(value)


def test_two_documents() -> None:
    with pytest.raises(NotYaml):
        read_yaml("a: 1\n---\nb: 2")


def test_what_is_given_stays_as_it_is() -> None:
    objective = {"name": "simclr", "projector": [512, 128]}
    keys = {"stages.graft.objective": objective, "stages.graft.objective.projector": [64, 16]}
    recipe = load_recipe("fashion_paper", keys)
    assert recipe.stages["graft"].objective.projector == (64, 16)  # type: ignore[union-attr]
    assert objective == {"name": "simclr", "projector": [512, 128]}
