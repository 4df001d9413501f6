"""Damaged files of a run: commands end with 0 or 2 and no traceback, and one bad line costs itself alone."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from small_run import DAMAGE, commands, make_run, prepare, text_files

from layergraft.commands.cli import main
from layergraft.runs.metrics import read_metrics


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_run(tmp_path_factory.mktemp("damage"))


def outcome(finished: tuple[Path, Path], work: Path, command: str, file: str, damage: str) -> str:
    """What is wrong with how a command ended on a damaged copy; empty where nothing is."""
    images, run = finished
    copy = work / "run"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    prepare(command, copy)
    if not (copy / file).is_file():
        return ""
    DAMAGE[damage](copy / file)
    code = main(commands(images, copy)[command])
    return "" if code in (0, 2) else f"{command}: {file}, {damage}: exit {code}"


@pytest.mark.parametrize("damage", DAMAGE)
def test_report_of_a_damaged_run(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    files = [file for file in text_files(finished[1]) if file.count("/") in (0, 2)]
    assert {"results.json", "run.json", "analysis.json", "recipe.yaml"} <= set(files)
    wrong = [outcome(finished, tmp_path, "report", file, damage) for file in files]
    assert [text for text in wrong if text] == []
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("command", ["evaluate", "finish", "resume"])
def test_commands_on_a_damaged_run(finished: tuple[Path, Path], tmp_path: Path, command: str, damage: str) -> None:
    files = text_files(finished[1])
    assert files
    wrong = [outcome(finished, tmp_path, command, file, damage) for file in files]
    assert [text for text in wrong if text] == []


def test_one_bad_line_costs_itself_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The lines after a bad one were lost, and gone from the file when the run went on."""
    lines = [json.dumps({"stage": "mae", "step": step, "loss": 1.0}) for step in range(1, 6)]
    (tmp_path / "metrics.jsonl").write_bytes(
        b"\n".join([lines[0].encode(), b'{"stage": "ma\xe9"}', lines[1].encode(), b"[]", b"{}", lines[4].encode()])
        + b'\n{"stage": "mae", "st'
    )
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 5]
    assert "3 damaged lines are left out: 2, 4, 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "file", "before", "after"),
    [
        ("resume", "skipped.jsonl", '"key": 3', '"key": -1'),
        ("resume", "skipped.jsonl", '"key": 3', '"key": 9999'),
        ("report", "results.json", '"high": ', '"high": null, "was": '),
        ("report", "recipe.yaml", "  graft:\n", "  other:\n"),
    ],
)
def test_values_that_do_not_belong_together(
    finished: tuple[Path, Path], tmp_path: Path, command: str, file: str, before: str, after: str
) -> None:
    """What 2,000 mutants met: a line of an image that is not there, half an interval, a stage without its recipe."""
    images, run = finished
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    prepare(command, copy)
    text = (copy / file).read_text()
    assert before in text
    (copy / file).write_text(text.replace(before, after))
    assert main(commands(images, copy)[command]) in (0, 2)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Cut, flip, insert or double some bytes, or change a word of the text."""
    at, kind = rng.randrange(len(content) + 1), rng.randrange(6)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9))) + content[at + 1 :]
    if kind == 2:
        return content[:at] + content[max(0, at - rng.randrange(40)) :]
    if kind == 3:
        return content[:at] + content[at + rng.randrange(1, 40) :]
    words = [b"null", b"-1", b"1e999", b"NaN", b'"x"', b"[]", b"{}", b"true", b"99999999999999999999"]
    numbers = [number for number, part in enumerate(content.split(b" ")) if part]
    parts = content.split(b" ")
    if numbers:
        chosen = rng.choice(numbers)
        parts[chosen] = rng.choice(words) + (parts[chosen][-1:] if parts[chosen][-1:] in b",}]\n" else b"")
    return b" ".join(parts)


def fuzz(finished: tuple[Path, Path], work: Path, mutants: int, seed: int, names: tuple[str, ...]) -> list[str]:
    """Mutate random files of a run; what ended with another exit code than 0 and 2."""
    images, run = finished
    rng = random.Random(seed)
    files = sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file() and path.suffix != ".html")
    wrong = []
    for number in range(mutants):
        copy = work / "run"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy)
        command = rng.choice(names)
        prepare(command, copy)
        file = rng.choice([file for file in files if (copy / file).is_file()])
        (copy / file).write_bytes(mutate((copy / file).read_bytes(), rng))
        code = main(commands(images, copy)[command])
        if code not in (0, 2):
            wrong.append(f"mutant {number}: {command}, {file}: exit {code}")
            shutil.copy(copy / file, work / f"mutant-{number}")
    return wrong


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
def test_no_mutant_ends_with_a_bug(finished: tuple[Path, Path], tmp_path: Path, seed: int) -> None:
    assert fuzz(finished, tmp_path, 100, seed, ("report", "report", "evaluate", "finish", "resume")) == []
