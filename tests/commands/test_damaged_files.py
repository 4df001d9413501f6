"""JSON that others cut, garbled or replaced, wherever it is kept: exit 2, and the file is named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import two_classes
from safetensors.torch import save_file

from layergraft.commands.cli import main
from layergraft.commands.pack import PROGRESS
from layergraft.commands.study.clock import read_times
from layergraft.commands.study.directory import SETTINGS
from layergraft.commands.study.jobs import read_outcome
from layergraft.commands.study.study_file import FILE
from layergraft.config import EncoderConfig
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError
from layergraft.evaluation.probes import load_probe
from layergraft.runs.lock import LOCK, locked
from layergraft.training.best_epoch import FILE as BEST
from layergraft.training.best_epoch import load_best

CONTENTS: dict[str, bytes] = {
    "cut": b'{"settings": {"da',
    "zeros": bytes(40),
    "latin-1": '{"seed": "Größe"}'.encode("latin-1"),
    "list": b"[]",
    "empty": b"",
    "empty object": b"{}",
    "other types": b'{"settings": 1, "looked_at": "x", "packed": null, "identity": [], "arms": {}, "scale": 3}',
    "beyond all numbers": b'{"settings": {}, "looked_at": 1e999, "seconds": 1e999, "step": NaN}',
    "deep": b"[" * 100_000,
}


def exit_code_and_words(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    return main(words), capsys.readouterr().err


@pytest.mark.parametrize("kind", CONTENTS)
def test_files_of_studies_and_packs(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    images = two_classes(tmp_path / "images", 6)
    study, pack = tmp_path / "study", tmp_path / "pack"
    cases: list[tuple[Path, list[str]]] = [
        (study / FILE, ["report", str(study)]),
        (study / SETTINGS, ["reproduce", "--scale", "smoke", "--out", str(study)]),
        (pack / PROGRESS, ["pack", "--data", str(images), "--out", str(pack)]),
    ]
    for file, words in cases:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(CONTENTS[kind])
        code, said = exit_code_and_words(words, capsys)
        assert (code, "Traceback" in said) == (2, False), (file.name, said)
        named = file if file.name != SETTINGS or kind not in ("empty object", "other types") else study
        assert kind == "beyond all numbers" or str(named) in said, (file.name, said)
        assert file.read_bytes() == CONTENTS[kind]
        file.unlink()


def refused(read: Callable[[], Any], file: Path) -> None:
    with pytest.raises(UserError, match=re.escape(repr(str(file)))):
        read()


@pytest.mark.parametrize("kind", CONTENTS)
def test_parts_of_a_study(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "seed-0.json"
    file.write_bytes(CONTENTS[kind])
    for job in ("trial", "seed", "stage", "conflict"):
        refused(lambda job=job: read_outcome(file, job), file)  # type: ignore[misc]
    refused(lambda: read_times(file), file)


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_directory_in_use_says_so_whatever_its_lock_holds(tmp_path: Path, kind: str) -> None:
    with locked(tmp_path, print):
        (tmp_path / LOCK).write_bytes(CONTENTS[kind])
        with pytest.raises(UserError, match="in use by another process"), locked(tmp_path, print):
            pass


class _Objective(torch.nn.Module):
    selection_metric = "top1"


@pytest.mark.parametrize("kind", [*CONTENTS, "no note", "no safetensors", "folder"])
def test_notes_of_weights(tmp_path: Path, kind: str) -> None:
    """Metadata of probes and of the best epoch's weights, and files that are none of these."""
    encoder = create_encoder(EncoderConfig(img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2), 0)
    for file, key in ((tmp_path / "probe.safetensors", "probe"), (tmp_path / BEST, "best")):
        if kind == "folder":
            file.mkdir()
        elif kind == "no safetensors":
            file.write_bytes(b"\xff" * 64)
        else:
            note = None if kind == "no note" else {key: CONTENTS[kind].decode("latin-1")}
            save_file({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}, file, metadata=note)
    refused(lambda: load_probe(tmp_path / "probe.safetensors"), tmp_path / "probe.safetensors")
    if kind != "folder":  # which is no file that was kept
        refused(lambda: load_best(encoder, _Objective(), tmp_path), tmp_path / BEST)  # type: ignore[arg-type]


def probe_file(folder: Path, **changes: Any) -> Path:
    described = {"format": 1, "classes": ["a", "b"], "pooling": "cls", "encoder": "mae", "source": "x"}
    described |= {"protocol": "logistic", "variant": None, "shots": "5", "split": "0", **changes}
    file = folder / "probe.safetensors"
    tensors = {"weight": torch.zeros(2, 16), "bias": torch.zeros(2)}
    save_file(tensors, file, metadata={"probe": json.dumps(described)})
    return file


@pytest.mark.parametrize(
    "changes",
    [{"pooling": "max"}, {"classes": ["a"]}, {"classes": "ab"}, {"center": "no"}, {"block": 1.5}, {"format": 2}],
)
def test_probes_that_say_something_else(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert load_probe(probe_file(tmp_path)).weight.shape == (2, 16)
    file = probe_file(tmp_path, **changes)
    refused(lambda: load_probe(file), file)


@pytest.mark.parametrize(
    ("progress", "message"),
    [
        ({"looked_at": 2, "packed": 2}, "is missing"),
        ({"looked_at": 10**12, "packed": 10**12}, "more images than there are"),
        ({"looked_at": 1, "packed": 2}, "more images than there are"),
        ({"looked_at": -1, "packed": -1}, "looked_at"),
    ],
)
def test_an_unfinished_pack_that_does_not_add_up(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    progress: dict[str, int],
    message: str,
) -> None:
    images, out = two_classes(tmp_path / "images", 6), tmp_path / "pack"
    words = ["pack", "--data", str(images), "--out", str(out), "--shard-images", "2"]
    with monkeypatch.context() as patch:
        patch.setattr("layergraft.commands.pack.build_index", lambda *_: 1 / 0)
        assert main(words) == 1
    begun = json.loads((out / PROGRESS).read_text())
    (out / PROGRESS).write_text(json.dumps(begun | progress | {"unreadable": 0}))
    for shard in out.glob("*.tar"):
        shard.unlink()
    code, said = exit_code_and_words(words, capsys)
    assert (code, message in said) == (2, True), said


@pytest.mark.parametrize("name", [None, 3, ["vit_tiny_patch16_224"]])
def test_an_architecture_that_is_no_name(name: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = EncoderConfig(
        name="vit_tiny_patch16_224", img_size=16, in_chans=1, patch_size=8, embed_dim=32, depth=1, num_heads=2
    )
    save_encoder(create_encoder(config, 0), tmp_path / "encoder", {})
    file = tmp_path / "encoder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architecture": name}))
    code, said = exit_code_and_words(["inspect", str(tmp_path / "encoder")], capsys)
    assert code == 2
    assert f"architecture {name!r}" in said


@pytest.mark.parametrize(
    ("key", "value", "said_of_it"),
    [
        ("depth", 10**9, "has 1,000,000,000 blocks, and the weights 1"),
        ("embed_dim", 10**6, "numbers, and the weights"),
        ("mlp_ratio", 1e8, "numbers, and the weights"),
        ("img_size", 80_000, "numbers, and the weights"),
    ],
)
def test_a_configuration_of_a_much_larger_network(
    key: str, value: float, said_of_it: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused by the weights, before a network is built that takes all memory, or hours."""
    config = EncoderConfig(
        name="vit_tiny_patch16_224", img_size=16, in_chans=1, patch_size=8, embed_dim=32, depth=1, num_heads=2
    )
    save_encoder(create_encoder(config, 0), tmp_path / "encoder", {})
    file = tmp_path / "encoder" / "config.json"
    written = json.loads(file.read_text())
    written["model_args"][key] = value
    file.write_text(json.dumps(written))
    code, said = exit_code_and_words(["inspect", str(tmp_path / "encoder")], capsys)
    assert code == 2
    assert said_of_it in said
