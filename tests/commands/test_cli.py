from __future__ import annotations

import errno
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from layergraft.commands.cli import COMMANDS, main
from layergraft.config.loading import recipe_text


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_is_quick(command: list[str]) -> None:
    words = [sys.executable, "-m", "layergraft", *command, "--help"]
    times = []
    for _ in range(3):  # by its processor time, which other work on the machine hardly changes
        began = os.times()
        result = subprocess.run(words, capture_output=True, text=True, check=True)
        ended = os.times()
        times.append(ended.children_user + ended.children_system - began.children_user - began.children_system)
    assert min(times) < 0.5, times
    assert "usage: layergraft" in result.stdout


def test_import_is_cheap() -> None:
    code = "import sys, layergraft, layergraft.commands.cli; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False False\n"
    )


def test_every_recipe_has_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from layergraft.config import recipe_names

    names = [name for name in recipe_names() if "large" not in name]
    assert len(names) > 5
    for name in names:
        assert main(["plan", "--recipe", name, "--json", "true"]) == 0
        stages = json.loads(capsys.readouterr().out)["stages"]
        layers = [row["name"] for row in stages[0]["layers"]]
        assert layers[:4] == ["patch_embed", "positions", "tokens", "blocks.0"]


def test_a_package_does_not_hide_the_command_of_its_name() -> None:
    import layergraft
    import layergraft.commands.bench
    import layergraft.runs.report.page
    from layergraft.errors import UserError

    with pytest.raises(UserError, match="is no run"):
        layergraft.report(runs=["/nowhere"])
    assert callable(layergraft.bench)


def test_unknown_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "'train'" in capsys.readouterr().err
    assert main(["demo", "--ot", "x"]) == 2
    assert "'out'" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import layergraft

    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert not ended.value.code
    assert capsys.readouterr().out == f"layergraft {layergraft.__version__}\n"


def test_options_without_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", "x"]) == 2
    assert "before a command" in capsys.readouterr().err


def test_home_directory_where_the_shell_left_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves `~` in `--out=~/run`, Python everywhere."""
    from layergraft.commands import demo as demo_module
    from layergraft.commands import pack as pack_module
    from layergraft.commands import train as train_module

    outs: list[object] = []
    monkeypatch.setenv("HOME", str(tmp_path))
    for module in (train_module, demo_module):
        monkeypatch.setattr(module, "train_run", lambda _recipe, out, *_: outs.append(out))
    monkeypatch.setattr(pack_module, "pack", lambda _data, out, *_: outs.append(out))
    (tmp_path / "mine.yaml").write_text(recipe_text("fashion_paper"))
    assert main(["train", "--recipe=~/mine.yaml", "--out=~/run"]) == 0
    assert main(["demo", "--out=~/run"]) == 0
    assert main(["pack", "--data=x", "--out=~/run"]) == 0
    assert outs == [tmp_path / "run"] * 3


def test_help_holds_arguments_and_nothing_that_only_python_returns(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = capsys.readouterr().out
        assert "Returns:" not in text
        assert "UserError" not in text


def test_every_public_function_says_what_it_takes_returns_and_raises() -> None:
    for name, function in COMMANDS.items():
        text = inspect.getdoc(function) or ""
        assert text.partition("\n")[0].endswith("."), name
        for part in ("Args:", "Returns:", "Raises:"):
            assert f"\n{part}\n" in text, (name, part)
        for argument in inspect.signature(function).parameters:
            assert f"\n    {argument}: " in text, (name, argument)


def test_the_list_of_recipes_needs_no_torch() -> None:
    code = "import sys, layergraft; layergraft.plan(); print('torch' in sys.modules, 'numpy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "fashion_paper" in result.stdout
    assert result.stdout.endswith("False False\n")


def test_dir_names_every_command() -> None:
    """`dir` of a package that loads its functions when they are used named none of them."""
    import layergraft

    assert set(layergraft.__all__) <= set(dir(layergraft))
    assert {*COMMANDS, "load_encoder", "__version__"} <= set(dir(layergraft))


def test_editors_are_told_the_types() -> None:
    import layergraft

    assert Path(layergraft.__file__).with_name("py.typed").is_file()


@pytest.mark.parametrize(("line", "offered"), [("layergraft tr", "train"), ("layergraft train --recipe fashion_p", "")])
def test_a_shell_completes(line: str, offered: str, tmp_path: Path) -> None:
    pytest.importorskip("argcomplete")
    asks = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_SUPPRESS_SPACE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    asks |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "words"), "_ARGCOMPLETE_IFS": "\n"}
    subprocess.run([sys.executable, "-m", "layergraft"], env=os.environ | asks, check=False, timeout=60)
    words = (tmp_path / "words").read_text().split("\n")
    assert (offered or "fashion_paper") in [word.strip() for word in words]


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried …"), OSError(errno.ENOMEM, "no memory")]
)
def test_want_of_memory_is_no_bug(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_large(_: list[str]) -> int:
        raise error

    monkeypatch.setattr("layergraft.commands.cli._run", too_large)
    assert main(["plan"]) == 2
    said = capsys.readouterr().err
    assert "not enough memory" in said
    assert "Traceback" not in said
