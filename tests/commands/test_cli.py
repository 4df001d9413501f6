from __future__ import annotations

import os
import subprocess
import sys

import pytest

from layergraft.commands.cli import COMMANDS, main


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

    for name in recipe_names():
        if "large" not in name:
            assert main(["plan", "--recipe", name, "--json", "true"]) == 0
            stages = json.loads(capsys.readouterr().out)["stages"]
            assert [row["name"] for row in stages[0]["layers"]][:4] == [
                "patch_embed",
                "positions",
                "tokens",
                "blocks.0",
            ]


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
