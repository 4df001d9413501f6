"""`bench encode`: every case is there, its numbers fit each other, and what cannot run is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import layergraft
from layergraft.commands.bench import encode
from layergraft.commands.cli import main
from layergraft.config import EncoderConfig
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError

SMALL = EncoderConfig(name="vit_tiny_patch16_224", img_size=32, patch_size=16, embed_dim=32, depth=1, num_heads=2)


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """An encoder directory of noise."""
    save_encoder(create_encoder(SMALL, 0), tmp_path / "encoder", {})
    return tmp_path / "encoder"


def check_cases(figures: dict[str, Any], expected: list[tuple[str, str, int]]) -> None:
    """The cases are those, and their numbers fit each other."""
    cases = figures["cases"]
    assert [(case["runtime"], case["precision"], case["batch_size"]) for case in cases] == expected
    for case in cases:
        assert case["images_per_second"] == pytest.approx(1000 * case["batch_size"] / case["latency_ms"])
        assert case["calls"] >= 3
        assert case["latency_p95_ms"] >= case["latency_ms"]
        assert case["memory_bytes"] is None or case["memory_bytes"] >= 4 * figures["parameters"]
        assert case["difference"] < (1e-5 if case["precision"] == "fp32" else 0.1)


def test_an_encoder_directory_is_timed_at_every_batch_size(encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "encode", "--encoder", str(encoder), "--batch-size", "1", "3", "--runtimes", "eager"]
    assert main([*command, "--seconds", "0", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["image"] == [3, 32, 32]
    assert figures["parameters"] == sum(p.numel() for p in create_encoder(SMALL, 0).parameters())
    check_cases(figures, [("eager", bits, size) for bits in ("fp32", "bf16") for size in (1, 3)])
    assert [case["ratio"] for case in figures["cases"][:2]] == [1.0, 1.0]


def test_a_model_name_has_fresh_weights() -> None:
    fresh = encode._encoder("vit_tiny_patch16_224", 32)
    assert (fresh.input_size, fresh.embed_dim) == ((32, 32), 192)


def test_what_cannot_run_is_said_and_left_out(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that is missing, an extra that is not installed: the other cases stay."""

    def no_compiler(*_: object, **__: object) -> object:
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(torch, "compile", no_compiler)
    monkeypatch.setattr(encode, "missing_for_onnx", lambda: ["onnxscript"])
    figures = layergraft.bench(what="encode", encoder=str(encoder), batch_size=[2], seconds=0, json=True)
    check_cases(figures, [("eager", "fp32", 2), ("eager", "bf16", 2)])
    assert "onnxscript is not installed" in figures["notes"][0]
    assert figures["notes"][1:] == [
        f"compiled, {bits}, batch 2 is left out: no C++ compiler" for bits in ("fp32", "bf16")
    ]


def test_a_batch_that_memory_does_not_hold_is_left_out(encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The others are timed; where none is left the command says what to do."""
    huge = str(10**13)
    command = ["bench", "encode", "--encoder", str(encoder), "--runtimes", "eager", "--seconds", "0", "--json"]
    assert main([*command, "--batch-size", "1", huge]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    check_cases(figures, [("eager", bits, 1) for bits in ("fp32", "bf16")])
    assert figures["notes"] == [f"batch {huge} is left out: there is not enough memory for it"]
    assert main([*command, "--batch-size", huge]) == 2
    assert "Give a smaller --batch-size" in capsys.readouterr().err


def test_batch_sizes_that_make_no_sense_are_refused(encoder: Path) -> None:
    with pytest.raises(UserError, match="one image or more"):
        layergraft.bench(what="encode", encoder=str(encoder), batch_size=[0])
    with pytest.raises(UserError, match="takes one batch size"):
        layergraft.bench(what="step", batch_size=[8, 16])


@pytest.mark.slow
def test_compiled_and_exported_give_the_same_features(encoder: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    figures = layergraft.bench(what="encode", encoder=str(encoder), batch_size=[2], seconds=0, json=True)
    pairs = [("eager", "fp32"), ("eager", "bf16"), ("compiled", "fp32"), ("compiled", "bf16"), ("onnx", "fp32")]
    check_cases(figures, [(*pair, 2) for pair in pairs])
    assert figures["notes"] == []
