"""Protocols that train, as `layergraft evaluate` runs them: better than random weights, exact after kills, honest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from layergraft.checkpoints.encoder import save_encoder
from layergraft.cli import main
from layergraft.config import EncoderConfig
from layergraft.models.vit import create_encoder

TINY = EncoderConfig(
    name="vit_tiny_patch16_224", img_size=36, in_chans=1, patch_size=9, embed_dim=32, depth=2, num_heads=2
)
VARYING = {"images_per_second", "data_wait", "time"}
# Every protocol in a few steps, with all that is random switched on.
SHORT = {
    "linear": ["--linear.epochs", "3", "--linear.objective.batchnorm", "true"],
    "finetune": ["--finetune.epochs", "3", "--finetune.warmup-epochs", "0", "--finetune.ema", "0.9"],
    "segment": [
        *("--variant", "upernet", "--upernet.epochs", "3", "--upernet.warmup-epochs", "0"),
        *("--upernet.objective.width", "16", "--upernet.objective.drop_path", "0.5"),
    ],
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder")
    save_encoder(create_encoder(TINY, 0, (0.17,), (0.3,)), path, {})
    return path


def words(protocol: str, encoder: Path, out: Path) -> list[str]:
    data = "fashion-scenes" if protocol == "segment" else "fashion-canvas"
    fraction = 0.04 if protocol == "segment" else 0.02
    stage = "upernet" if protocol == "segment" else protocol
    return [
        *("evaluate", "--encoder", str(encoder), "--out", str(out), "--protocols", protocol),
        *("--data", f"builtin:{data}?fraction={fraction}", "--test", f"builtin:{data}:test?fraction=0.02"),
        *(f"--{stage}.batch-size", "32", "--engine.log-every", "1", "--engine.checkpoint-steps", "2"),
        *SHORT[protocol],
    ]


def bits(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.safetensors"))}


def rows(out: Path) -> list[dict[str, Any]]:
    found = json.loads((out / "results.json").read_text())
    return [{key: value for key, value in row.items() if key not in ("seconds",)} for row in found]


def metrics(out: Path) -> list[dict[str, Any]]:
    lines = [line for path in sorted(out.rglob("metrics.jsonl")) for line in path.read_text().splitlines()]
    return [{key: value for key, value in json.loads(line).items() if key not in VARYING} for line in lines]


@pytest.mark.parametrize("protocol", ["linear", "finetune", "segment"])
def test_killed_protocol_ends_with_the_same_bits(encoder: Path, tmp_path: Path, protocol: str) -> None:
    command = [sys.executable, "-m", "layergraft", *words(protocol, encoder, tmp_path / "killed")]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert main(words(protocol, encoder, tmp_path / "whole")) == 0
    done = len(metrics(tmp_path / "whole"))
    while process.poll() is None and len(metrics(tmp_path / "killed")) < done // 2:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert not (tmp_path / "killed" / "results.json").exists(), f"it ended before it was killed: {errors}"
    assert len(metrics(tmp_path / "killed")) >= done // 2
    assert main(words(protocol, encoder, tmp_path / "killed")) == 0
    assert bits(tmp_path / "killed") == bits(tmp_path / "whole")
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert {row["variant"] for row in rows(tmp_path / "whole")} == (
        {"upernet", "upernet/best_epoch"} if protocol == "segment" else {None, "best_epoch"}
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--protocols", "linear", "--data", "builtin:fashion-scenes"], "have no labels"),
        (["--protocols", "segment", "--data", "builtin:fashion-canvas"], "have none"),
        (["--protocols", "segment", "--data", "builtin:fashion-scenes", "--shots", "5"], "percentages"),
        (["--protocols", "finetune", "--data", "builtin:fashion", "--finetune.epoch", "3"], "'epochs'"),
        (["--protocols", "finetune", "--data", "builtin:fashion", "--shots", "5000"], "5000 shots"),
    ],
)
def test_bad_input(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["evaluate", "--encoder", str(encoder), "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out" / "trained").exists()
